"""What Postgres says should be in the vector store, for ``fsck``; and what is wrong in Postgres itself."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from pipeline.adapters.postgres.engine import allow, transaction
from pipeline.adapters.postgres.rows import as_json, recordset
from pipeline.errors import CeleriacError
from pipeline.types import ChunkRow, ChunkState, DocumentFault, Leftover, StoredChunk

# A cursor's first row may come after a sort of the whole knowledge base. Plans are made for all rows: those made for
# the first few would walk the index over the chunks of every knowledge base.
_PATIENCE = 600.0
_PATIENTLY = sa.text(
    f"SELECT set_config('statement_timeout', '{_PATIENCE:.0f}s', true), set_config('cursor_tuple_fraction', '1', true)"
)
_PAGE = 5000

_CHUNKS = sa.text("""
SELECT c.id::text, c.document_id::text, c.generation, coalesce(c.generation = d.live_generation, false)
FROM documents d JOIN chunks c ON c.document_id = d.id WHERE d.kb_id = :kb_id ORDER BY c.id
""")
# A generation is pending while a run that began before it is open, or one that ended early could go on with it. Older
# generations that were replaced since then are so too: their run is about to remove them.
_VERSIONS = """
WITH version AS (
    SELECT v.document_id, v.generation, d.key, CASE
        WHEN v.generation = d.live_generation THEN 'live'
        WHEN v.generation < d.live_generation THEN
            CASE WHEN d.updated_at >= open.since THEN 'pending' ELSE 'superseded' END
        WHEN v.created_at >= open.since OR (v.document_id, v.generation) IN (
            SELECT i.document_id, i.generation FROM run_items i JOIN runs r ON r.id = i.run_id
            WHERE r.kb_id = :kb_id AND r.status <> 'done' AND i.status = 'queued'
              AND i.document_id IS NOT NULL AND i.generation IS NOT NULL
        ) THEN 'pending'
        ELSE 'abandoned' END AS standing
    FROM document_versions v JOIN documents d ON d.id = v.document_id CROSS JOIN (
        SELECT min(created_at) AS since FROM runs WHERE kb_id = :kb_id AND status IN ('discovering', 'running')
    ) open
    WHERE d.kb_id = :kb_id
)
"""


def _of_versions(statement: str) -> sa.TextClause:
    return sa.text(_VERSIONS + statement)


_STATES = _of_versions("""
SELECT c.id::text, c.document_id::text, v.key, c.generation, encode(c.embed_hash, 'hex'), v.standing
FROM chunks c JOIN version v ON v.document_id = c.document_id AND v.generation = c.generation
WHERE c.id = ANY(CAST(:ids AS uuid[]))
""")
_LIVE = sa.text("""
SELECT c.id::text, c.document_id::text, c.generation, c.context, c.text, encode(c.embed_hash, 'hex')
FROM chunks c JOIN documents d ON d.id = c.document_id AND d.live_generation = c.generation
WHERE c.id = ANY(CAST(:ids AS uuid[])) AND d.kb_id = :kb_id
""")
_DOCUMENT_FAULTS = sa.text("""
SELECT CASE WHEN d.live_generation IS NOT NULL AND n.chunks IS NULL THEN 'empty' ELSE 'wrong_count' END, d.id::text,
    d.key, CASE
        WHEN d.live_generation IS NOT NULL AND v.document_id IS NULL THEN 'its live generation has no text'
        WHEN d.live_generation IS NOT NULL AND n.chunks IS NULL THEN 'it is live without a chunk'
        ELSE 'counted ' || d.chunk_count || ', has ' || coalesce(n.chunks, 0) END
FROM documents d
LEFT JOIN document_versions v ON v.document_id = d.id AND v.generation = d.live_generation
LEFT JOIN (
    SELECT c.document_id, c.generation, count(*) AS chunks
    FROM chunks c JOIN documents d ON d.id = c.document_id WHERE d.kb_id = :kb_id GROUP BY 1, 2
) n ON n.document_id = d.id AND n.generation = d.live_generation
WHERE d.kb_id = :kb_id
  AND (d.chunk_count <> coalesce(n.chunks, 0) OR (d.live_generation IS NOT NULL AND n.chunks IS NULL))
""")
# A run counts the knowledge base at its end; until then the number may be an old one.
_SIZE = sa.text("""
SELECT k.chunk_count, (SELECT coalesce(sum(chunk_count), 0) FROM documents WHERE kb_id = k.id)
FROM knowledge_bases k
WHERE k.id = :kb_id AND NOT EXISTS (
    SELECT FROM runs WHERE kb_id = k.id AND status IN ('discovering', 'running')
)
""")
_LEFTOVERS = _of_versions("""
SELECT document_id::text, generation, key FROM version WHERE standing IN ('superseded', 'abandoned')
""")
_VERSION_CHUNKS = sa.text("""
SELECT c.id::text FROM chunks c
JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(document_id uuid, generation integer)
    ON c.document_id = r.document_id AND c.generation = r.generation
""")
_FORGET = _of_versions("""
DELETE FROM document_versions old
USING version v JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(document_id uuid, generation integer)
    ON v.document_id = r.document_id AND v.generation = r.generation
WHERE old.document_id = v.document_id AND old.generation = v.generation AND v.standing IN ('superseded', 'abandoned')
""")
_RECOUNT = sa.text("""
UPDATE documents d SET chunk_count = (
    SELECT count(*) FROM chunks c WHERE c.document_id = d.id AND c.generation = d.live_generation)
WHERE d.id = ANY(CAST(:ids AS uuid[]))
""")
_WITHDRAW = sa.text("""
UPDATE documents d
SET live_generation = NULL, content_hash = NULL, chunk_count = 0, status = 'failed', error = CAST(:error AS jsonb)
WHERE d.id = ANY(CAST(:ids AS uuid[])) AND NOT EXISTS (
    SELECT FROM chunks c WHERE c.document_id = d.id AND c.generation = d.live_generation)
""")


T = TypeVar("T")


class Inspection:
    """The truth that a vector store is compared with."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    # ------------------------------------------------------------------ looking

    def chunks(self, kb_id: str) -> Generator[ChunkRow, None, None]:
        """All chunks of a knowledge base in the order of their ids, as they are when the first one is asked for. Holds
        a connection until the end or until it is closed, and few of them in memory.
        """
        return self._stream(_CHUNKS, kb_id, ChunkRow._make)

    def states(self, kb_id: str, chunk_ids: Sequence[str]) -> dict[str, ChunkState]:
        """How these chunks stand now; one that is gone is left out."""
        with transaction(self._engine) as connection:
            rows = connection.execute(_STATES, {"kb_id": kb_id, "ids": list(chunk_ids)})
            return {row[0]: ChunkState._make(row[1:]) for row in rows}

    def live(self, kb_id: str, chunk_ids: Sequence[str]) -> list[StoredChunk]:
        """Those of these chunks that belong to live generations, with their texts."""
        with transaction(self._engine) as connection:
            rows = connection.execute(_LIVE, {"kb_id": kb_id, "ids": list(chunk_ids)})
            return [StoredChunk._make(row) for row in rows]

    def document_faults(self, kb_id: str) -> Generator[DocumentFault, None, None]:
        """Documents with a wrong count of chunks, or live without one."""
        return self._stream(_DOCUMENT_FAULTS, kb_id, DocumentFault._make)

    def size_fault(self, kb_id: str) -> str:
        """What is wrong with the knowledge base's own count of chunks; empty where nothing is, or a run is open."""
        with transaction(self._engine) as connection:
            row = connection.execute(_SIZE, {"kb_id": kb_id}).first()
        return "" if row is None or row[0] == row[1] else f"counted {row[0]}, its documents have {row[1]}"

    def leftovers(self, kb_id: str) -> Generator[Leftover, None, None]:
        """Generations that no reader sees and no run will go on with."""
        return self._stream(_LEFTOVERS, kb_id, Leftover._make)

    def leftover_chunks(self, leftovers: Sequence[Leftover]) -> list[str]:
        """Ids of the chunks of these generations."""
        with transaction(self._engine) as connection:
            return list(connection.execute(_VERSION_CHUNKS, {"rows": _rows(leftovers)}).scalars())

    # ------------------------------------------------------------------ putting right

    def forget(self, kb_id: str, leftovers: Sequence[Leftover]) -> int:
        """Delete those of these generations that are leftovers still, with their chunks; returns how many."""
        with transaction(self._engine) as connection:
            return connection.execute(_FORGET, {"kb_id": kb_id, "rows": _rows(leftovers)}).rowcount

    def recount(self, document_ids: Sequence[str]) -> None:
        """Count the live chunks of these documents anew."""
        with transaction(self._engine) as connection:
            connection.execute(_RECOUNT, {"ids": list(document_ids)})

    def withdraw(self, document_ids: Sequence[str], error: CeleriacError) -> None:
        """Mark these documents as failed, so that the next ingest reads them; not those that have a live chunk."""
        with transaction(self._engine) as connection:
            values = {"ids": list(document_ids), "error": as_json(error.to_json())}
            connection.execute(_WITHDRAW, values)

    def _stream(self, statement: sa.TextClause, kb_id: str, make: Callable[[Any], T]) -> Generator[T, None, None]:
        with transaction(self._engine) as connection:
            allow(connection, _PATIENCE)
            connection.execute(_PATIENTLY)
            with connection.execute(statement, {"kb_id": kb_id}, execution_options={"yield_per": _PAGE}) as rows:
                yield from map(make, rows)


def _rows(leftovers: Sequence[Leftover]) -> str:
    return recordset({"document_id": one.document_id, "generation": one.generation} for one in leftovers)
