"""The vector store over Postgres."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from pipeline.adapters.pgvector import audit, statistics
from pipeline.adapters.pgvector.keywords import KeywordWriter, search_keywords
from pipeline.adapters.pgvector.maintenance import Upkeep
from pipeline.adapters.pgvector.session import search, transaction
from pipeline.adapters.pgvector.tables import Catalogue, Tables
from pipeline.adapters.pgvector.vectors import exact_bound, refuse_unusable, search_vectors, upsert_vectors
from pipeline.errors import BadSettings
from pipeline.seams import StoredEntry
from pipeline.types import Hit, IndexEntry, IndexRef, Vector

_OLDEST = (0, 8)
_PAGE = 10_000
_FIRST = "00000000-0000-0000-0000-000000000000"

_DELETE_VECTORS = "DELETE FROM {vectors} WHERE kb_id = %(kb)s::uuid AND chunk_id = ANY(%(chunks)s::uuid[])"
_DROP = """
WITH v AS (DELETE FROM {vectors} WHERE kb_id = %(kb)s::uuid),
     k AS (DELETE FROM {keywords} WHERE kb_id = %(kb)s::uuid),
     t AS (DELETE FROM {counts} WHERE kb_id = %(kb)s::uuid)
DELETE FROM {corpus} WHERE kb_id = %(kb)s::uuid
"""
_CHUNK_IDS = """
SELECT chunk_id::text FROM {vectors} WHERE kb_id = %(kb)s::uuid AND chunk_id > %(after)s::uuid
ORDER BY chunk_id LIMIT %(page)s
"""
_VERSIONS = b"""
SELECT (SELECT extversion FROM pg_extension WHERE extname = 'vector'),
       (SELECT default_version FROM pg_available_extensions WHERE name = 'vector'),
       split_part(current_setting('server_version'), ' ', 1)
"""
_EXISTS = b"SELECT to_regclass(%(name)s) IS NOT NULL"


class PgvectorStore:
    """Vectors and keywords of all knowledge bases, in tables per embedding model and size."""

    def __init__(self, engine: sa.Engine, *, language: str = "english", exact_up_to: int | None = None) -> None:
        """Over an engine shared with the rest of the process.

        ``language`` is a text search configuration of Postgres. A knowledge base of more chunks than
        ``exact_up_to`` gets an HNSW index; by default the bound depends on the dimensions.
        """
        self._engine = engine
        self._language = language
        self._exact_up_to = exact_up_to
        self._catalogue = Catalogue(engine)

    def vector_search(self, index: IndexRef, vector: Vector, limit: int, *, timeout: float) -> list[Hit]:
        """Nearest chunks by cosine similarity."""
        return search_vectors(self._engine, index, vector, limit, exact_up_to=self._bound(index), timeout=timeout)

    def keyword_search(self, index: IndexRef, text: str, limit: int, *, timeout: float) -> list[Hit]:
        """Best chunks by BM25."""
        return search_keywords(self._engine, index, text, limit, language=self._language, timeout=timeout)

    def upsert(self, index: IndexRef, entries: Sequence[IndexEntry], *, timeout: float) -> None:
        """Write entries in one transaction; of two with the same id the last one counts."""
        for entry in entries:
            refuse_unusable(entry.vector, index.dimensions, f"The vector of chunk {entry.chunk_id}")
        if not entries:
            return
        ordered = _distinct(entries)
        while not self._write(index, ordered, timeout):
            pass  # another writer deleted some of the same chunks between two statements
        self._upkeep(index, timeout)

    def delete(self, index: IndexRef, chunk_ids: Sequence[str], *, timeout: float) -> None:
        """Remove chunks, and what they added to the statistics."""
        tables = Tables.of(index)
        if not chunk_ids or not self._exists(tables, timeout):
            return
        with transaction(self._engine, timeout) as connection:
            statistics.share(connection, tables, index.kb_id)
            change = statistics.CorpusChange()
            # Only what was locked: another one of them may have been written anew by now.
            gone = KeywordWriter(connection, tables, index.kb_id, change).delete(chunk_ids)
            connection.execute(tables.render(_DELETE_VECTORS), {"kb": index.kb_id, "chunks": gone})
            change.record(connection, tables, index.kb_id)
        self._upkeep(index, timeout)

    def drop(self, index: IndexRef, *, timeout: float) -> None:
        """Remove all of one knowledge base; the tables stay, others may use them."""
        tables = Tables.of(index)
        if not self._exists(tables, timeout):
            return
        with transaction(self._engine, timeout) as connection:
            statistics.exclude(connection, tables, index.kb_id)
            connection.execute(tables.render(_DROP), {"kb": index.kb_id})
        # On its own, since it keeps all readers of the table out while it waits.
        with transaction(self._engine, timeout) as connection:
            connection.execute(f"DROP INDEX IF EXISTS {tables.hnsw_index(index.kb_id)}".encode())

    def chunk_ids(self, index: IndexRef, *, timeout: float) -> Iterator[str]:
        """All ids in pages; no connection is held while the caller works on one."""
        statement = Tables.of(index).render(_CHUNK_IDS)
        after, full = _FIRST, True
        while full:
            rows = search(self._engine, statement, {"kb": index.kb_id, "after": after, "page": _PAGE}, timeout=timeout)
            yield from (row[0] for row in rows)
            full = len(rows) == _PAGE
            after = rows[-1][0] if rows else after

    def check(self, *, timeout: float) -> str:
        """Versions of pgvector and Postgres; raises BadSettings where pgvector is missing or too old."""
        [(installed, available, server)] = search(self._engine, _VERSIONS, {}, timeout=timeout)
        version = installed or available
        if version is None:
            raise BadSettings(
                f"PostgreSQL {server} has no pgvector.", "Install pgvector for it (0.8 or newer), or set WEAVIATE_URL."
            )
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
            raise BadSettings(
                f"pgvector {version} is too old.", "Install 0.8 or newer; then ALTER EXTENSION vector UPDATE."
            )
        return f"pgvector {version} on PostgreSQL {server}"

    def entries(self, index: IndexRef, *, timeout: float) -> Iterator[StoredEntry]:
        """All entries by id; one that lacks its vector or its keywords says so."""
        return audit.entries(self._engine, index, timeout=timeout)

    def faults(self, index: IndexRef, *, timeout: float) -> list[str]:
        """Halves of entries, and statistics of the keyword branch that aren't those of the chunks there are."""
        return audit.faults(self._engine, index, timeout=timeout) if self._exists(Tables.of(index), timeout) else []

    def mend(self, index: IndexRef, *, timeout: float) -> None:
        """Delete halves and count the statistics anew; writers of this knowledge base wait meanwhile."""
        if self._exists(Tables.of(index), timeout):
            audit.mend(self._engine, index, timeout=timeout)
            self._upkeep(index, timeout)

    def _write(self, index: IndexRef, entries: Sequence[IndexEntry], timeout: float) -> bool:
        tables = Tables.of(index)
        types = self._catalogue.ensure(tables, timeout)
        with transaction(self._engine, timeout) as connection:
            statistics.share(connection, tables, index.kb_id)
            change = statistics.CorpusChange()
            writer = KeywordWriter(connection, tables, index.kb_id, change)
            if not writer.upsert(entries, types, self._language):
                connection.rollback()
                return False
            upsert_vectors(connection, tables, types, index.kb_id, entries)
            change.record(connection, tables, index.kb_id)
        return True

    def _upkeep(self, index: IndexRef, timeout: float) -> None:
        tables = Tables.of(index)
        types = self._catalogue.ensure(tables, timeout)
        Upkeep(self._engine, tables, types, index.kb_id, self._bound(index)).run(timeout=timeout)

    def _bound(self, index: IndexRef) -> int:
        return exact_bound(index.dimensions) if self._exact_up_to is None else self._exact_up_to

    def _exists(self, tables: Tables, timeout: float) -> bool:
        name = tables.render("{corpus}").decode()
        return bool(search(self._engine, _EXISTS, {"name": name}, timeout=timeout)[0][0])


def _distinct(entries: Sequence[IndexEntry]) -> list[IndexEntry]:
    # Postgres writes uuids in lower case and orders them as their text is ordered.
    last = {entry.chunk_id.lower(): entry for entry in entries}
    return [last[chunk_id].model_copy(update={"chunk_id": chunk_id}) for chunk_id in sorted(last)]
