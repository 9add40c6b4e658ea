"""Vectors by model and text: a text that any worker has embedded once is not paid for again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import sqlalchemy as sa

from pipeline.adapters.postgres.engine import transaction
from pipeline.types import Vector

_KNOWN = sa.text("SELECT encode(hash, 'hex') FROM embeddings WHERE model = :model AND hash = ANY(:hashes)")
_SAVE = sa.text("""
INSERT INTO embeddings (model, hash, vector)
SELECT :model, r.hash, r.vector FROM unnest(CAST(:hashes AS bytea[]), CAST(:vectors AS bytea[])) AS r(hash, vector)
ORDER BY r.hash
ON CONFLICT DO NOTHING
""")
_LOAD = sa.text("SELECT encode(hash, 'hex'), vector FROM embeddings WHERE model = :model AND hash = ANY(:hashes)")


class EmbeddingCache:
    """Keys are hex SHA-256 of the embedded text; values float32 vectors of shape (dimensions,)."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    def known(self, model: str, hashes: Sequence[str]) -> set[str]:
        """Those of ``hashes`` that have a vector."""
        with transaction(self._engine) as connection:
            return set(connection.execute(_KNOWN, {"model": model, "hashes": _bytes(hashes)}).scalars())

    def save(self, model: str, vectors: Mapping[str, Vector]) -> None:
        """Add vectors by hash; those already there stay. Sorted, so that two workers can't deadlock."""
        values = {
            "model": model,
            "hashes": _bytes(tuple(vectors)),
            "vectors": [np.asarray(vector, dtype="<f4").tobytes() for vector in vectors.values()],
        }
        with transaction(self._engine) as connection:
            connection.execute(_SAVE, values)

    def load(self, model: str, hashes: Sequence[str]) -> dict[str, Vector]:
        """Vectors by hash; one that isn't there is left out."""
        with transaction(self._engine) as connection:
            rows = connection.execute(_LOAD, {"model": model, "hashes": _bytes(hashes)}).all()
        return {key: np.frombuffer(packed, dtype="<f4").astype(np.float32) for key, packed in rows}


def _bytes(hashes: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(value) for value in hashes]
