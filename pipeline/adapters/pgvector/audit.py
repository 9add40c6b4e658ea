"""Whether the tables of an index agree with each other, and making them agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import psycopg
import sqlalchemy as sa
from numpy.typing import NDArray

from pipeline.adapters.pgvector import bm25
from pipeline.adapters.pgvector.session import search, snapshot, transaction
from pipeline.adapters.pgvector.statistics import Statistics, exclude, read_statistics, replace_statistics
from pipeline.adapters.pgvector.tables import Tables
from pipeline.seams import StoredEntry
from pipeline.types import IndexRef

_PAGE = 10_000
_FIRST = "00000000-0000-0000-0000-000000000000"

# The first rows of both windows together: what comes after the end of one window comes after a whole page of it.
_ENTRIES = """
SELECT chunk_id::text, coalesce(document_id::text, ''), coalesce(generation, 0),
       CASE WHEN document_id IS NULL THEN 'no vector' WHEN length IS NULL THEN 'no keywords' ELSE '' END
FROM (SELECT chunk_id, document_id, generation FROM {vectors}
      WHERE kb_id = %(kb)s::uuid AND chunk_id > %(after)s::uuid ORDER BY chunk_id LIMIT %(page)s) AS v
FULL JOIN (SELECT chunk_id, length FROM {keywords}
      WHERE kb_id = %(kb)s::uuid AND chunk_id > %(after)s::uuid ORDER BY chunk_id LIMIT %(page)s) AS k
USING (chunk_id) ORDER BY chunk_id LIMIT %(page)s
"""
_WITHOUT_KEYWORDS = """
FROM {vectors} AS v WHERE v.kb_id = %(kb)s::uuid AND NOT EXISTS (
    SELECT FROM {keywords} AS k WHERE k.kb_id = v.kb_id AND k.chunk_id = v.chunk_id)
"""
_WITHOUT_VECTOR = """
FROM {keywords} AS k WHERE k.kb_id = %(kb)s::uuid AND NOT EXISTS (
    SELECT FROM {vectors} AS v WHERE v.kb_id = k.kb_id AND v.chunk_id = k.chunk_id)
"""
_HALVES = f"SELECT (SELECT count(*) {_WITHOUT_KEYWORDS}), (SELECT count(*) {_WITHOUT_VECTOR})"
_TERMS = "SELECT length, terms FROM {keywords} WHERE kb_id = %(kb)s::uuid"


def entries(engine: sa.Engine, index: IndexRef, *, timeout: float) -> Iterator[StoredEntry]:
    """Vectors and keywords side by side, in pages; no connection is held while the caller works on one."""
    statement = Tables.of(index).render(_ENTRIES)
    after, full = _FIRST, True
    while full:
        rows = search(engine, statement, {"kb": index.kb_id, "after": after, "page": _PAGE}, timeout=timeout)
        yield from map(StoredEntry._make, rows)
        full = len(rows) == _PAGE
        after = rows[-1][0] if rows else after


def faults(engine: sa.Engine, index: IndexRef, *, timeout: float) -> list[str]:
    """What doesn't agree, as of one moment; writers are not held up."""
    tables = Tables.of(index)
    with snapshot(engine, timeout) as connection:
        row = connection.execute(tables.render(_HALVES), {"kb": index.kb_id}).fetchone()
        recorded = read_statistics(connection, tables, index.kb_id)
        actual = _count(connection, tables, index.kb_id)
    vectors, keywords = row or (0, 0)
    found = [f"{vectors:,} vectors have no keywords"] if vectors else []
    found += [f"{keywords:,} chunks have keywords and no vector"] if keywords else []
    return found + _differences(recorded, actual)


def mend(engine: sa.Engine, index: IndexRef, *, timeout: float) -> None:
    """Delete halves and write the statistics anew. Writers of this knowledge base wait meanwhile."""
    tables = Tables.of(index)
    with transaction(engine, timeout) as connection:
        exclude(connection, tables, index.kb_id)
        for halves in (_WITHOUT_KEYWORDS, _WITHOUT_VECTOR):
            connection.execute(tables.render(f"DELETE {halves}"), {"kb": index.kb_id})
        replace_statistics(connection, tables, index.kb_id, _count(connection, tables, index.kb_id))


def _count(connection: psycopg.Connection, tables: Tables, kb_id: str) -> Statistics:
    chunks, length, tally = 0, 0, _Tally()
    with connection.cursor("terms") as cursor:
        cursor.execute(tables.render(_TERMS), {"kb": kb_id}, binary=True)
        while rows := cursor.fetchmany(_PAGE):
            chunks += len(rows)
            length += sum(row[0] for row in rows)
            tally.add([bm25.decode_terms(row[1]) for row in rows])
    terms, counts = tally.total()
    return Statistics(chunks, length, terms, counts)


class _Tally:
    """How many chunks hold each term. Memory grows with the terms, not with the chunks."""

    def __init__(self) -> None:
        self._terms: NDArray[np.int32] = np.empty(0, np.int32)
        self._counts: NDArray[np.int64] = np.empty(0, np.int64)

    def add(self, chunks: Sequence[NDArray[np.int32]]) -> None:
        every = np.concatenate(chunks)
        terms, counts = np.unique(every, return_counts=True)
        merged, places = np.unique(np.concatenate([self._terms, terms]), return_inverse=True)
        weights = np.concatenate([self._counts, counts])
        self._terms, self._counts = merged, np.bincount(places, weights=weights, minlength=len(merged)).astype(np.int64)

    def total(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        return self._terms, self._counts.astype(np.int32)


def _differences(recorded: Statistics, actual: Statistics) -> list[str]:
    found = []
    if (recorded.chunks, recorded.length) != (actual.chunks, actual.length):
        found.append(
            f"keyword statistics count {recorded.chunks:,} chunks of {recorded.length:,} words, "
            f"there are {actual.chunks:,} of {actual.length:,}"
        )
    wrong = _unequal(recorded, actual)
    return [*found, f"keyword statistics are wrong for {wrong:,} of {len(actual.terms):,} terms"] if wrong else found


def _unequal(one: Statistics, other: Statistics) -> int:
    terms, places = np.unique(np.concatenate([one.terms, other.terms]), return_inverse=True)
    weights = np.concatenate([one.counts, -other.counts.astype(np.int64)])
    return int(np.count_nonzero(np.bincount(places, weights=weights, minlength=len(terms))))
