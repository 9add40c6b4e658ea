"""The vector branch: exact for small knowledge bases, HNSW for large ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import psycopg
import sqlalchemy as sa

from pipeline.adapters.pgvector import binary
from pipeline.adapters.pgvector.session import Rows, search
from pipeline.adapters.pgvector.tables import Tables, Types
from pipeline.errors import RequestRejected
from pipeline.types import Hit, IndexEntry, IndexRef, Vector

_EXACT_NUMBERS = 2_500_000
_MAX_EF_SEARCH = 1000

_UPSERT = """
INSERT INTO {vectors} AS old (kb_id, chunk_id, document_id, generation, embedding)
SELECT %(kb)s::uuid, * FROM unnest(
    %(chunks)s::uuid[], %(documents)s::uuid[], %(generations)s::int4[], %(embeddings)s::{type}[])
ON CONFLICT (kb_id, chunk_id) DO UPDATE
SET document_id = excluded.document_id, generation = excluded.generation, embedding = excluded.embedding
WHERE (old.document_id, old.generation, old.embedding)
    IS DISTINCT FROM (excluded.document_id, excluded.generation, excluded.embedding)
"""
# One of the two halves runs, the other is cut off before its scan starts. The sum keeps the first from
# using the HNSW index; the second can't avoid it, since its caller turns sorting off.
_SEARCH = """
WITH size AS MATERIALIZED (SELECT coalesce(sum(chunks), 0) AS chunks FROM {corpus} WHERE kb_id = %(kb)s::uuid)
SELECT chunk_id::text, 1 - distance, (SELECT chunks FROM size)::int8 FROM (
    (SELECT chunk_id, (embedding <=> %(vector)s::{type}) + 0 AS distance FROM {vectors}
     WHERE kb_id = %(kb)s::uuid AND (SELECT chunks FROM size) <= %(exact)s
     ORDER BY distance LIMIT %(limit)s)
    UNION ALL
    (SELECT chunk_id, embedding <=> %(vector)s::{type} AS distance FROM {vectors}
     WHERE kb_id = %(kb)s::uuid AND (SELECT chunks FROM size) > %(exact)s
     ORDER BY embedding <=> %(vector)s::{type} LIMIT %(limit)s)
) AS nearest
WHERE distance <= 2  -- not so for NaN, the distance from a vector of zeros
ORDER BY distance, chunk_id
"""
_NO_LIMIT = 2**62


def exact_bound(dimensions: int) -> int:
    """Chunks of one knowledge base up to which all its vectors are compared: milliseconds, and full recall."""
    return max(1000, _EXACT_NUMBERS // dimensions)


def search_vectors(
    engine: sa.Engine, index: IndexRef, vector: Vector, limit: int, *, exact_up_to: int, timeout: float
) -> list[Hit]:
    """The nearest chunks by cosine similarity; where the index comes up short, all vectors are compared."""
    refuse_unusable(vector, index.dimensions, "The vector of the question")
    rows = _search(engine, index, vector, limit, timeout, exact_up_to=exact_up_to)
    if len(rows) < limit and rows and rows[0][2] > max(exact_up_to, len(rows)):
        rows = _search(engine, index, vector, limit, timeout, exact_up_to=_NO_LIMIT)
    return [Hit(chunk_id=chunk_id, score=score) for chunk_id, score, _ in rows]


def upsert_vectors(
    connection: psycopg.Connection, tables: Tables, types: Types, kb_id: str, entries: Sequence[IndexEntry]
) -> None:
    """Write vectors, leaving alone those that are there already as they should be."""
    embeddings = [binary.vector(entry.vector, half=tables.half) for entry in entries]
    connection.execute(
        tables.render(_UPSERT),
        {
            "kb": kb_id,
            "chunks": [entry.chunk_id for entry in entries],
            "documents": [entry.document_id for entry in entries],
            "generations": [entry.generation for entry in entries],
            "embeddings": binary.array(types.halfvec if tables.half else types.vector, embeddings),
        },
    )


def refuse_unusable(vector: Vector, dimensions: int, whose: str) -> None:
    """Raise RequestRejected for a vector of another size, or with NaN or infinity in it."""
    detail = {"upstream": "postgres"}
    if vector.shape != (dimensions,):
        raise RequestRejected(
            f"{whose} has shape {vector.shape}; the index takes {dimensions} dimensions.",
            "Ask with the embedding model that the knowledge base was built with.",
            detail,
        )
    if not np.isfinite(vector).all():
        raise RequestRejected(
            f"{whose} holds NaN or infinity.", "The embedding model failed on this text; is it empty?", detail
        )


def _search(
    engine: sa.Engine, index: IndexRef, vector: Vector, limit: int, timeout: float, *, exact_up_to: int
) -> Rows:
    tables = Tables.of(index)
    parameters = {
        "kb": index.kb_id,
        "vector": binary.vector(vector, half=tables.half),
        "limit": limit,
        "exact": exact_up_to,
    }
    return search(
        engine,
        tables.render(_SEARCH),
        parameters,
        timeout=timeout,
        ef_search=min(_MAX_EF_SEARCH, max(100, 2 * limit)),
        ordered_by_index=True,
    )
