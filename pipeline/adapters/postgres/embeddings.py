"""Vectors by space and text: a text that any worker has embedded once is not paid for again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import sqlalchemy as sa

from pipeline.adapters.postgres.engine import statement
from pipeline.types import Vector

_KNOWN = sa.text("SELECT encode(hash, 'hex') FROM embeddings WHERE space = :space AND hash = ANY(:hashes)")
_SAVE = sa.text("""
INSERT INTO embeddings (space, hash, vector)
SELECT :space, r.hash, r.vector FROM unnest(CAST(:hashes AS bytea[]), CAST(:vectors AS bytea[])) AS r(hash, vector)
ORDER BY r.hash
ON CONFLICT DO NOTHING
""")
_LOAD = sa.text("SELECT encode(hash, 'hex'), vector FROM embeddings WHERE space = :space AND hash = ANY(:hashes)")


class EmbeddingCache:
    """Vectors of shape (dimensions,), float32, by the hex SHA-256 of the embedded text, in spaces that don't meet: a
    space is a model and a size, as in ``wordllama-256/256``.
    """

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    def known(self, space: str, hashes: Sequence[str]) -> set[str]:
        """Those of ``hashes`` that have a vector."""
        with statement(self._engine) as connection:
            return set(connection.execute(_KNOWN, {"space": space, "hashes": _bytes(hashes)}).scalars())

    def save(self, space: str, vectors: Mapping[str, Vector]) -> None:
        """Add vectors by hash; those already there stay. Sorted, so that two workers can't deadlock."""
        values = {
            "space": space,
            "hashes": _bytes(tuple(vectors)),
            "vectors": [np.asarray(vector, dtype="<f4").tobytes() for vector in vectors.values()],
        }
        with statement(self._engine) as connection:
            connection.execute(_SAVE, values)

    def load(self, space: str, hashes: Sequence[str]) -> dict[str, Vector]:
        """Vectors by hash; one that isn't there is left out."""
        with statement(self._engine) as connection:
            rows = connection.execute(_LOAD, {"space": space, "hashes": _bytes(hashes)}).all()
        return {key: np.frombuffer(packed, dtype="<f4").astype(np.float32) for key, packed in rows}


def _bytes(hashes: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(value) for value in hashes]
