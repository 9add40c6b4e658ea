"""Vectors by space and text: a text that any worker has embedded once is not paid for again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import sqlalchemy as sa

from pipeline.adapters.postgres.engine import statement
from pipeline.types import Vector

# Joins, for a plan that looks up hash by hash. With `hash = ANY(…)` Postgres, as long as it knows nothing yet of so new
# a table, reads the whole space and compares each row with each hash.
_KNOWN = sa.text("""
SELECT encode(e.hash, 'hex') FROM unnest(CAST(:hashes AS bytea[])) AS r(hash)
JOIN embeddings e ON e.space = :space AND e.hash = r.hash
""")
_LOAD = sa.text("""
SELECT encode(e.hash, 'hex'), e.vector FROM unnest(CAST(:hashes AS bytea[])) AS r(hash)
JOIN embeddings e ON e.space = :space AND e.hash = r.hash
""")
# The vectors end to end, each of :size bytes: an array of them would travel as text.
_SAVE = sa.text("""
INSERT INTO embeddings (space, hash, vector)
SELECT :space, r.hash, substring(CAST(:vectors AS bytea) FROM (r.number::int - 1) * :size + 1 FOR :size)
FROM unnest(CAST(:hashes AS bytea[])) WITH ORDINALITY AS r(hash, number)
ORDER BY r.hash
ON CONFLICT DO NOTHING
""")


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
        packed = np.asarray(list(vectors.values()), dtype="<f4")
        size = packed.nbytes // len(vectors)
        values = {"space": space, "hashes": _bytes(tuple(vectors)), "vectors": packed.tobytes(), "size": size}
        with statement(self._engine) as connection:
            connection.execute(_SAVE, values)

    def load(self, space: str, hashes: Sequence[str]) -> dict[str, Vector]:
        """Vectors by hash; one that isn't there is left out."""
        with statement(self._engine) as connection:
            rows = connection.execute(_LOAD, {"space": space, "hashes": _bytes(hashes)}).all()
        return {key: np.frombuffer(packed, dtype="<f4").astype(np.float32) for key, packed in rows}


def _bytes(hashes: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(value) for value in hashes]
