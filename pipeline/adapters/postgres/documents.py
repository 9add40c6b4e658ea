"""Documents, their generations and chunks, as ingest writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.adapters.postgres.engine import statement, transaction
from pipeline.adapters.postgres.knowledge_bases import index_of
from pipeline.adapters.postgres.rows import recordset
from pipeline.errors import Busy
from pipeline.types import Block, Draft, DraftChunk, IndexRef, Source, StoredChunk, Value

_KNOWN = sa.text("""
SELECT key, origin, content_hash, error IS NOT NULL AS failed FROM documents WHERE kb_id = :kb_id AND key = ANY(:keys)
""")
# Before documents are changed they are locked in the order of their keys, as registering them does: runs over the same
# ones then wait for each other and never deadlock.
_LOCK = sa.text("""
SELECT FROM documents WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY kb_id, key FOR NO KEY UPDATE
""")
_LOCK_KEYS = sa.text("""
SELECT FROM documents WHERE kb_id = :kb_id AND key = ANY(:keys) ORDER BY key FOR NO KEY UPDATE
""")
_CONFIRM = sa.text("""
UPDATE documents d SET origin = r.origin, error = NULL
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(key text, origin text)
WHERE d.kb_id = :kb_id AND d.key = r.key AND d.live_generation IS NOT NULL
""")
# Each registration reserves a generation of its own, so that two runs over one document can't write the same one.
_REGISTER = sa.text("""
WITH given AS (
    SELECT DISTINCT ON (key) * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(key text, origin text, format text)
    ORDER BY key
)
INSERT INTO documents (kb_id, key, origin, format) SELECT :kb_id, key, origin, format FROM given
ON CONFLICT ON CONSTRAINT documents_kb_key DO UPDATE
SET origin = excluded.origin, format = excluded.format, reserved_generation = documents.reserved_generation + 1,
    error = CASE WHEN documents.live_generation IS NULL THEN documents.error END
RETURNING key, id::text, reserved_generation
""")
_SAVE_DRAFTS = sa.text("""
INSERT INTO document_versions (document_id, generation, content_hash, title, text, blocks, aliases, metadata)
SELECT r.document_id, r.generation, r.content_hash, r.title, r.text, r.blocks,
    ARRAY(SELECT jsonb_array_elements_text(r.aliases)), r.metadata
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(document_id uuid, generation integer, content_hash text, title text,
    text text, blocks jsonb, aliases jsonb, metadata jsonb)
ON CONFLICT (document_id, generation) DO UPDATE
SET content_hash = excluded.content_hash, title = excluded.title, text = excluded.text, blocks = excluded.blocks,
    aliases = excluded.aliases, metadata = excluded.metadata
""")
_DRAFTS = sa.text("""
SELECT v.document_id::text, v.generation, v.title, v.content_hash, v.text, v.blocks, v.aliases, v.metadata
FROM document_versions v
JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(document_id uuid, generation integer)
    ON v.document_id = r.document_id AND v.generation = r.generation
""")
_CLEAR_CHUNKS = sa.text("""
DELETE FROM chunks c USING jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(document_id uuid, generation integer)
WHERE c.document_id = r.document_id AND c.generation = r.generation
""")
_SAVE_CHUNKS = sa.text("""
INSERT INTO chunks (id, kb_id, document_id, generation, ordinal, text, context, start_char, end_char, page, section,
    token_count, embed_hash, parent_start, parent_end)
SELECT r.id, :kb_id, r.document_id, r.generation, r.ordinal, r.text, r.context, r.start, r."end", r.page, r.section,
    r.tokens, decode(r.embed_hash, 'hex'), r.parent_start, r.parent_end
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id uuid, document_id uuid, generation integer, ordinal integer,
    text text, context text, start integer, "end" integer, page integer, section text, tokens integer,
    embed_hash text, parent_start integer, parent_end integer)
-- A draft that a newer generation has done away with gets no chunks.
JOIN document_versions v ON v.document_id = r.document_id AND v.generation = r.generation
ON CONFLICT (id) DO NOTHING
""")
_OUTDATED = sa.text("""
SELECT r.document_id::text, r.generation
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(document_id uuid, generation integer)
LEFT JOIN documents d ON d.id = r.document_id
WHERE d.id IS NULL OR coalesce(d.live_generation, 0) > r.generation
""")
_CHUNKS = sa.text("""
SELECT c.id::text, c.document_id::text, c.generation, c.context, c.text, encode(c.embed_hash, 'hex')
FROM chunks c JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(document_id uuid, generation integer)
    ON c.document_id = r.document_id AND c.generation = r.generation
ORDER BY c.document_id, c.generation, c.ordinal
""")
_SWITCH = sa.text("""
UPDATE documents d SET live_generation = v.generation, content_hash = v.content_hash, title = v.title,
    aliases = v.aliases, metadata = v.metadata, status = 'live', error = NULL, updated_at = now(),
    chunk_count = (SELECT count(*) FROM chunks c WHERE c.document_id = v.document_id AND c.generation = v.generation)
FROM document_versions v JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(document_id uuid, generation integer)
    ON v.document_id = r.document_id AND v.generation = r.generation
WHERE d.id = v.document_id AND coalesce(d.live_generation, 0) < v.generation
  AND EXISTS (SELECT FROM chunks c WHERE c.document_id = v.document_id AND c.generation = v.generation)
""")
# The first statement of its transaction: it holds the knowledge base's row, which all who change what a question can
# find lock before the documents.
_CHANGE = sa.text("""
UPDATE knowledge_bases SET revision = revision + 1 WHERE id = :id
RETURNING id::text, embedding_model AS current_model, dimensions AS current_dimensions, building_model,
    building_dimensions
""")
_CHANGE_OF = sa.text("""
UPDATE knowledge_bases SET revision = revision + 1
WHERE id IN (SELECT kb_id FROM documents WHERE id = ANY(CAST(:ids AS uuid[])))
""")
_LIVE = sa.text("""
SELECT key, id::text, live_generation FROM documents
WHERE kb_id = :kb_id AND key = ANY(:keys) AND live_generation IS NOT NULL
""")
_LIVE_SOURCES = sa.text("""
SELECT key, origin, format, chunk_count FROM documents
WHERE kb_id = :kb_id AND live_generation IS NOT NULL AND key > :after ORDER BY key LIMIT :limit
""")
_SUPERSEDED = sa.text("""
SELECT c.id::text FROM chunks c JOIN documents d ON d.id = c.document_id
WHERE d.id = ANY(CAST(:ids AS uuid[])) AND c.generation < d.live_generation
""")
_FORGET = sa.text("""
DELETE FROM document_versions v USING documents d
WHERE d.id = v.document_id AND d.id = ANY(CAST(:ids AS uuid[])) AND v.generation < d.live_generation
""")
_PAGE = 20_000
# Documents page by page in the order of their keys: a knowledge base may be too large for the time a statement has.
_PAGE_END = sa.text("""
SELECT max(key) FROM (SELECT key FROM documents WHERE kb_id = :kb_id AND key > :after ORDER BY key LIMIT :limit) page
""")
_VANISHED = sa.text("""
SELECT d.id::text FROM documents d
WHERE d.kb_id = :kb_id AND d.key > :after AND d.key <= :end
  AND EXISTS (SELECT FROM unnest(CAST(:roots AS text[])) AS root
              WHERE d.origin = root OR starts_with(d.origin, rtrim(root, '/') || '/'))
  -- What another run has added since this one listed its sources has not vanished.
  AND d.updated_at < (SELECT created_at FROM runs WHERE id = :run_id)
  AND NOT EXISTS (SELECT FROM run_items i WHERE i.run_id = :run_id AND i.key = d.key)
  -- Nor has what a later run has met, though it may have found it unchanged: a run may be resumed days after.
  AND NOT EXISTS (SELECT FROM runs this JOIN runs later ON later.kb_id = this.kb_id AND later.kind = 'ingest'
                      AND later.created_at > this.created_at
                  JOIN run_items i ON i.run_id = later.id AND i.key = d.key WHERE this.id = :run_id)
  AND NOT EXISTS (SELECT FROM run_items i WHERE i.run_id = :run_id AND i.status NOT IN ('done', 'unchanged')
                  AND i.source->>'origin' = d.origin)
ORDER BY d.key
""")
_GIVEN_UP = sa.text("""
SELECT i.document_id::text, i.generation FROM run_items i
JOIN document_versions v ON v.document_id = i.document_id AND v.generation = i.generation
JOIN documents d ON d.id = i.document_id
WHERE i.run_id = :run_id AND i.failed_at IS NOT NULL AND coalesce(d.live_generation, 0) < i.generation LIMIT :limit
""")
_VERSION_CHUNK_IDS = sa.text("""
SELECT c.id::text FROM chunks c JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(document_id uuid, generation integer)
    ON c.document_id = r.document_id AND c.generation = r.generation
""")
_DISCARD = sa.text("""
DELETE FROM document_versions v
USING jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(document_id uuid, generation integer)
WHERE v.document_id = r.document_id AND v.generation = r.generation
""")
_CHUNK_IDS = sa.text("SELECT id::text FROM chunks WHERE document_id = ANY(CAST(:ids AS uuid[]))")
_HIDE = sa.text("""
UPDATE documents SET live_generation = NULL, content_hash = NULL, chunk_count = 0, status = 'pending'
WHERE id = ANY(CAST(:ids AS uuid[]))
""")
_DELETE = sa.text("DELETE FROM documents WHERE id = ANY(CAST(:ids AS uuid[]))")


class Known(Value):
    """A document as ingest finds it; ``failed``: the last attempt at a newer generation did."""

    content_hash: str | None
    origin: str
    failed: bool


class Documents:
    """The documents of all knowledge bases, seen by the stages that write them."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    def known(self, kb_id: str, keys: Sequence[str]) -> dict[str, Known]:
        """Those documents that are there, by key."""
        with statement(self._engine) as connection:
            rows = connection.execute(_KNOWN, {"kb_id": kb_id, "keys": list(keys)}).all()
        return {row[0]: Known(origin=row[1], content_hash=row[2], failed=row[3]) for row in rows}

    def register(self, kb_id: str, sources: Sequence[Source]) -> dict[str, tuple[str, int]]:
        """A row for each source, made where it isn't there; by key its id, and a generation that nobody else writes."""
        if not sources:
            return {}
        rows = recordset({"key": s.key, "origin": s.origin, "format": s.format} for s in sources)
        with statement(self._engine) as connection:
            found = connection.execute(_REGISTER, {"kb_id": kb_id, "rows": rows})
            return {row[0]: (row[1], row[2]) for row in found}

    def confirm(self, kb_id: str, sources: Sequence[Source]) -> None:
        """Documents that are live as these sources have them: note their origin, and forget a failure since."""
        rows = recordset({"key": source.key, "origin": source.origin} for source in sources)
        with transaction(self._engine) as connection:
            connection.execute(_LOCK_KEYS, {"kb_id": kb_id, "keys": [source.key for source in sources]})
            connection.execute(_CONFIRM, {"kb_id": kb_id, "rows": rows})

    def save_drafts(self, drafts: Sequence[Draft]) -> None:
        """Write new generations beside the live ones; again: the same rows."""
        if not drafts:
            return
        rows = recordset(drafts)
        with statement(self._engine) as connection:
            connection.execute(_SAVE_DRAFTS, {"rows": rows})

    def drafts(self, versions: Sequence[tuple[str, int]]) -> list[Draft]:
        """The drafts of these (document, generation) pairs."""
        with statement(self._engine) as connection:
            rows = connection.execute(_DRAFTS, {"rows": _versions(versions)}).mappings()
            return [_draft(row) for row in rows]

    def save_chunks(self, kb_id: str, versions: Sequence[tuple[str, int]], chunks: Sequence[DraftChunk]) -> None:
        """Replace the chunks of these generations, none of which is live yet."""
        values = {"kb_id": kb_id, "rows": recordset(chunks)}
        with transaction(self._engine) as connection:
            connection.execute(_CLEAR_CHUNKS, {"rows": _versions(versions)})
            connection.execute(_SAVE_CHUNKS, values)

    def chunks(self, versions: Sequence[tuple[str, int]]) -> list[StoredChunk]:
        """The chunks of these generations, in order."""
        with statement(self._engine) as connection:
            return [StoredChunk._make(row) for row in connection.execute(_CHUNKS, {"rows": _versions(versions)})]

    def switch(self, versions: Sequence[tuple[str, int]], written: Sequence[IndexRef]) -> set[tuple[str, int]]:
        """Make these generations the live ones, all at once; an older one never replaces a newer one, and one without
        a chunk none at all. Returns those that came too late: their document is gone, or live at a newer generation.

        ``written``: the indexes that hold them. Raises Busy where the knowledge base has come to have another one.
        """
        with transaction(self._engine) as connection:
            # Until the end no index is added to it.
            _require_written(connection.execute(_CHANGE, {"id": written[0].kb_id}).mappings().first(), written)
            connection.execute(_LOCK, {"ids": [document for document, _ in versions]})
            connection.execute(_SWITCH, {"rows": _versions(versions)})
            return {(row[0], row[1]) for row in connection.execute(_OUTDATED, {"rows": _versions(versions)})}

    def live(self, kb_id: str, keys: Sequence[str]) -> dict[str, tuple[str, int]]:
        """The (document, generation) pairs that readers see now, by key."""
        with statement(self._engine) as connection:
            rows = connection.execute(_LIVE, {"kb_id": kb_id, "keys": list(keys)})
            return {row[0]: (row[1], row[2]) for row in rows}

    def live_sources(self, kb_id: str, *, page: int = _PAGE) -> Iterator[tuple[Source, int]]:
        """All live documents in the order of their keys, each with its number of chunks; a statement per ``page``."""
        values: dict[str, Any] = {"kb_id": kb_id, "after": "", "limit": page}
        while True:
            with statement(self._engine) as connection:
                rows = connection.execute(_LIVE_SOURCES, values).all()
            yield from ((Source(key=row[0], origin=row[1], format=row[2]), row[3]) for row in rows)
            if len(rows) < page:
                return
            values["after"] = rows[-1][0]

    def outdated(self, versions: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        """Those whose document is gone, or live at a newer generation."""
        with statement(self._engine) as connection:
            return {(row[0], row[1]) for row in connection.execute(_OUTDATED, {"rows": _versions(versions)})}

    def superseded_chunks(self, document_ids: Sequence[str]) -> list[str]:
        """Ids of chunks that belong to generations older than the live one."""
        with statement(self._engine) as connection:
            return list(connection.execute(_SUPERSEDED, {"ids": list(document_ids)}).scalars())

    def forget_superseded(self, document_ids: Sequence[str]) -> None:
        """Delete the generations older than the live one, with their chunks."""
        with transaction(self._engine) as connection:
            connection.execute(_LOCK, {"ids": list(document_ids)})
            connection.execute(_FORGET, {"ids": list(document_ids)})

    def vanished(self, kb_id: str, run_id: str, roots: Sequence[str], *, page: int = _PAGE) -> list[str]:
        """Ids of documents that came from under ``roots`` and that the run did not meet; not those of a file that the
        run could not read in full: it may still hold them. One statement looks at ``page`` documents.
        """
        values: dict[str, Any] = {"kb_id": kb_id, "run_id": run_id, "roots": list(roots), "after": "", "limit": page}
        found: list[str] = []
        with statement(self._engine) as connection:
            while (end := connection.execute(_PAGE_END, values).scalar()) is not None:
                found += connection.execute(_VANISHED, values | {"end": end}).scalars()
                values["after"] = end
        return found

    def given_up(self, run_id: str, limit: int) -> list[tuple[str, int]]:
        """(document, generation) of drafts that a run began and failed to make live."""
        with statement(self._engine) as connection:
            return [(row[0], row[1]) for row in connection.execute(_GIVEN_UP, {"run_id": run_id, "limit": limit})]

    def version_chunks(self, versions: Sequence[tuple[str, int]]) -> list[str]:
        """Ids of the chunks of these generations."""
        with statement(self._engine) as connection:
            return list(connection.execute(_VERSION_CHUNK_IDS, {"rows": _versions(versions)}).scalars())

    def discard(self, versions: Sequence[tuple[str, int]]) -> None:
        """Delete these generations, with their chunks."""
        with statement(self._engine) as connection:
            connection.execute(_DISCARD, {"rows": _versions(versions)})

    def hide(self, document_ids: Sequence[str]) -> list[str]:
        """Take documents out of every answer, and return the ids of their chunks; :meth:`delete` comes after."""
        with transaction(self._engine) as connection:
            connection.execute(_CHANGE_OF, {"ids": list(document_ids)})
            connection.execute(_LOCK, {"ids": list(document_ids)})
            connection.execute(_HIDE, {"ids": list(document_ids)})
            return list(connection.execute(_CHUNK_IDS, {"ids": list(document_ids)}).scalars())

    def delete(self, document_ids: Sequence[str]) -> int:
        """Delete documents with their generations and chunks; returns how many of them were still there."""
        with transaction(self._engine) as connection:
            connection.execute(_LOCK, {"ids": list(document_ids)})
            return connection.execute(_DELETE, {"ids": list(document_ids)}).rowcount


def _require_written(row: Mapping[Any, Any] | None, written: Sequence[IndexRef]) -> None:
    if row is None:  # deleted: all of it comes too late
        return
    needed = [index_of(row, name) for name in ("current", "building")]
    if any(index is not None and index not in written for index in needed):
        raise Busy("The embedding model of the knowledge base has changed meanwhile.")


def _versions(versions: Sequence[tuple[str, int]]) -> str:
    return recordset({"document_id": document, "generation": generation} for document, generation in versions)


def _draft(row: Mapping[Any, Any]) -> Draft:
    return Draft(**{**row, "blocks": tuple(Block.model_validate(block) for block in row["blocks"])})
