"""Chunks as readers see them: of live generations only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.adapters.postgres.engine import fetched, statement
from pipeline.errors import NotFound
from pipeline.types import Parent, Passage

_LIVE = sa.text("""
SELECT c.id::text AS chunk_id, c.document_id::text, d.title, d.key AS source, c.page, c.section,
    c.start_char AS start, c.end_char AS "end"
FROM chunks c JOIN documents d ON d.id = c.document_id AND d.live_generation = c.generation
WHERE c.id = ANY(CAST(:ids AS uuid[])) AND c.kb_id = :kb_id
""")
_TEXTS = sa.text("SELECT id::text, text FROM chunks WHERE id = ANY(CAST(:ids AS uuid[])) AND kb_id = :kb_id")
# One row for each parent, so that a text is read once for all its chunks.
_PARENTS = sa.text("""
SELECT w.ids, w.start, w."end", substring(v.text FROM w.start + 1 FOR w."end" - w.start)
FROM (
    SELECT array_agg(c.id::text) AS ids, c.document_id, c.generation,
        coalesce(c.parent_start, c.start_char) AS start, coalesce(c.parent_end, c.end_char) AS "end"
    FROM chunks c JOIN documents d ON d.id = c.document_id AND d.live_generation = c.generation
    WHERE c.id = ANY(CAST(:ids AS uuid[])) AND c.kb_id = :kb_id
    GROUP BY c.document_id, c.generation, coalesce(c.parent_start, c.start_char), coalesce(c.parent_end, c.end_char)
) w JOIN document_versions v ON v.document_id = w.document_id AND v.generation = w.generation
""")
_LIST = sa.text("""
SELECT id::text, key, title, format, status, chunk_count AS chunks, live_generation AS generation, error, updated_at
FROM documents WHERE kb_id = :kb_id AND (:status = '' OR status = :status) ORDER BY key LIMIT :limit
""")
_SHOW = sa.text("""
SELECT d.id::text, d.key, d.origin, d.title, d.format, d.status, d.chunk_count AS chunks,
    d.aliases, d.metadata, d.live_generation AS generation, d.content_hash, d.error, d.created_at, d.updated_at,
    coalesce(length(v.text), 0) AS characters
FROM documents d LEFT JOIN document_versions v ON v.document_id = d.id AND v.generation = d.live_generation
WHERE d.kb_id = :kb_id AND (d.id::text = :name OR d.key = :name OR d.origin = :name)
ORDER BY d.key LIMIT 2
""")
_COUNT_UNDER = sa.text("""
SELECT count(*) FROM documents d WHERE d.kb_id = :kb_id
  AND EXISTS (SELECT FROM unnest(CAST(:roots AS text[])) AS root
              WHERE d.origin = root OR starts_with(d.origin, rtrim(root, '/') || '/'))
""")
_CHUNKS = sa.text("""
SELECT c.id::text AS chunk_id, c.document_id::text, d.title, d.key AS source, c.page, c.section,
    c.start_char AS start, c.end_char AS "end", c.text
FROM chunks c JOIN documents d ON d.id = c.document_id AND d.live_generation = c.generation
WHERE d.id = CAST(:id AS uuid) ORDER BY c.ordinal
""")


class Passages:
    """What can be retrieved, and from which document."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    def live(self, kb_id: str, chunk_ids: Sequence[str]) -> dict[str, Passage]:
        """Places of those chunks that belong to a live generation, by chunk id, without text."""
        found = fetched(self._engine, _LIVE, {"ids": list(chunk_ids), "kb_id": kb_id})
        return {row["chunk_id"]: Passage.model_construct(**row) for row in found}

    def texts(self, kb_id: str, chunk_ids: Sequence[str]) -> dict[str, str]:
        """Texts by chunk id; a chunk that is gone is left out."""
        found = fetched(self._engine, _TEXTS, {"ids": list(chunk_ids), "kb_id": kb_id})
        return {row["id"]: row["text"] for row in found}

    def parents(self, kb_id: str, chunk_ids: Sequence[str]) -> dict[str, Parent]:
        """Parents of live chunks by chunk id, the chunk itself where none is stored; those not live are left out."""
        with statement(self._engine) as connection:
            rows = connection.execute(_PARENTS, {"ids": list(chunk_ids), "kb_id": kb_id})
            return {chunk: Parent(*row[1:]) for row in rows for chunk in row[0]}

    def documents(self, kb_id: str, *, status: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """Rows for a listing, by key."""
        with statement(self._engine) as connection:
            rows = connection.execute(_LIST, {"kb_id": kb_id, "status": status, "limit": limit}).mappings()
            return [dict(row) for row in rows]

    def document(self, kb_id: str, name: str) -> dict[str, Any]:
        """One document by id, key or the file it came from; raises NotFound, also where a file holds many records."""
        with statement(self._engine) as connection:
            rows = connection.execute(_SHOW, {"kb_id": kb_id, "name": name}).mappings().all()
        if not rows:
            raise NotFound(f"There is no document {name!r} here.", "`manage.py docs list` shows ids and keys.")
        if len(rows) > 1:
            raise NotFound(f"{name!r} holds many documents.", "Name one by its id or key; see `manage.py docs list`.")
        return dict(rows[0])

    def count_under(self, kb_id: str, roots: Sequence[str]) -> int:
        """How many documents came from under these paths, spelled as origins are."""
        with statement(self._engine) as connection:
            found = connection.execute(_COUNT_UNDER, {"kb_id": kb_id, "roots": list(roots)})
            return int(found.scalar_one())

    def chunks(self, document_id: str) -> list[Passage]:
        """The live chunks of a document in order, with text."""
        with statement(self._engine) as connection:
            return [Passage(**row) for row in connection.execute(_CHUNKS, {"id": document_id}).mappings()]
