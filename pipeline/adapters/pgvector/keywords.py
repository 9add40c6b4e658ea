"""The keyword branch: words by Postgres's text search, BM25 by an inner product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import sqlalchemy as sa

from pipeline.adapters.pgvector import binary, bm25
from pipeline.adapters.pgvector.bm25 import TermCounts
from pipeline.adapters.pgvector.session import search
from pipeline.adapters.pgvector.statistics import CorpusChange, corpus_size
from pipeline.adapters.pgvector.tables import Tables, Types
from pipeline.types import Hit, IndexEntry, IndexRef

# Longer than any chunk; Postgres refuses to split texts of a megabyte.
_MAX_CHARACTERS = 100_000

_SPLIT = """
SELECT input.place::int4, array_send(array_agg({term})), array_send(array_agg(cardinality(word.positions)))
FROM unnest(%(texts)s::text[]) WITH ORDINALITY AS input (content, place),
     unnest(to_tsvector(%(language)s::regconfig, input.content)) AS word
GROUP BY input.place
"""
_INSERT = """
INSERT INTO {keywords} (kb_id, chunk_id, length, average, terms)
SELECT %(kb)s::uuid, chunk_id, length, %(average)s, terms
FROM unnest(%(chunks)s::uuid[], %(lengths)s::int4[], %(terms)s::sparsevec[]) AS new (chunk_id, length, terms)
ON CONFLICT (kb_id, chunk_id) DO NOTHING
RETURNING chunk_id::text
"""
_LOCK = """
SELECT chunk_id::text, length, average, terms FROM {keywords}
WHERE kb_id = %(kb)s::uuid AND chunk_id = ANY(%(chunks)s::uuid[])
ORDER BY chunk_id FOR UPDATE
"""
_REPLACE = """
UPDATE {keywords} AS old SET length = new.length, average = %(average)s, terms = new.terms
FROM unnest(%(chunks)s::uuid[], %(lengths)s::int4[], %(terms)s::sparsevec[]) AS new (chunk_id, length, terms)
WHERE old.kb_id = %(kb)s::uuid AND old.chunk_id = new.chunk_id
"""
_DELETE = "DELETE FROM {keywords} WHERE kb_id = %(kb)s::uuid AND chunk_id = ANY(%(chunks)s::uuid[])"

_SEARCH = """
WITH question AS (
    SELECT {term} AS term, sum(cardinality(word.positions)) AS frequency
    FROM unnest(to_tsvector(%(language)s::regconfig, %(text)s)) AS word GROUP BY 1
), size AS (
    SELECT sum(chunks) AS chunks FROM {corpus} WHERE kb_id = %(kb)s::uuid
), weighted AS (
    SELECT term, frequency * ln(1 + (chunks - df + 0.5)::float8 / (df + 0.5)::float8) AS weight
    FROM question CROSS JOIN size CROSS JOIN LATERAL (
        SELECT sum(delta) AS df FROM {counts} AS counted
        WHERE counted.kb_id = %(kb)s::uuid AND counted.term = question.term
    ) AS held WHERE df > 0
), query AS MATERIALIZED (
    SELECT ('{{' || string_agg((term + 1) || ':' || weight::real, ',') || '}}/1000000000')::sparsevec AS terms
    FROM weighted
)
SELECT chunk_id::text, score FROM (
    SELECT chunk_id, -(terms <#> (SELECT terms FROM query)) AS score FROM {keywords}
    WHERE kb_id = %(kb)s::uuid AND (SELECT terms FROM query) IS NOT NULL
    ORDER BY score DESC, chunk_id LIMIT %(limit)s
) AS best WHERE score > 0 ORDER BY score DESC, chunk_id
"""


def search_keywords(
    engine: sa.Engine, index: IndexRef, text: str, limit: int, *, language: str, timeout: float
) -> list[Hit]:
    """The chunks that BM25 ranks highest, by comparing all of the knowledge base."""
    parameters = {"kb": index.kb_id, "text": _clean(text), "language": language, "limit": limit}
    rows = search(engine, Tables.of(index).render(_SEARCH), parameters, timeout=timeout)
    return [Hit(chunk_id=chunk_id, score=score) for chunk_id, score in rows]


@dataclass(frozen=True)
class KeywordWriter:
    """Writes the keywords of one knowledge base within one transaction, and keeps count of what changed.

    Rows are touched in the order of their ids, new ones first: two writers of the same chunks wait for
    each other and can't deadlock.
    """

    connection: psycopg.Connection
    tables: Tables
    kb_id: str
    change: CorpusChange

    def upsert(self, entries: Sequence[IndexEntry], types: Types, language: str) -> bool:
        """Write the terms of ``entries`` (ids ascending and distinct).

        False where another writer deleted one of them meanwhile. The transaction must then start anew:
        to add a row after locking others would be out of order.
        """
        split = split_texts(self.connection, self.tables, [entry.keywords for entry in entries], language)
        wanted = {entry.chunk_id: counts for entry, counts in zip(entries, split, strict=True)}
        chunks, length = corpus_size(self.connection, self.tables, self.kb_id)
        length += sum(counts.length for counts in split)
        average = max(1.0, length / (chunks + len(split)))
        added = self._insert(wanted, types, average)
        there = {c: wanted[c] for c in wanted if c not in added}
        return self._replace(there, types, average) == set(there)

    def delete(self, chunk_ids: Sequence[str]) -> list[str]:
        """Remove the terms of these chunks as far as they are there; returns the ids of those that were."""
        found = self._lock(chunk_ids)
        self._execute(_DELETE, chunks=list(found))
        for counts in found.values():
            self.change.remove(counts)
        return list(found)

    def _insert(self, wanted: Mapping[str, TermCounts], types: Types, average: float) -> set[str]:
        cursor = self._execute(_INSERT, average=average, **_columns(wanted, types, average))
        added = {str(row[0]) for row in cursor}
        for chunk_id in added:
            self.change.add(wanted[chunk_id])
        return added

    def _replace(self, wanted: Mapping[str, TermCounts], types: Types, average: float) -> set[str]:
        found = self._lock(list(wanted)) if wanted else {}
        differing = {c: wanted[c] for c, old in found.items() if not old.same_as(wanted[c])}
        if differing:
            self._execute(_REPLACE, average=average, **_columns(differing, types, average))
        for chunk_id, counts in differing.items():
            self.change.remove(found[chunk_id])
            self.change.add(counts)
        return set(found)

    def _lock(self, chunk_ids: Sequence[str]) -> dict[str, TermCounts]:
        rows = self._execute(_LOCK, chunks=list(chunk_ids))
        return {str(row[0]): bm25.decode(row[3], row[1], row[2]) for row in rows}

    def _execute(self, template: str, **parameters: Any) -> psycopg.Cursor[Any]:
        return self.connection.execute(self.tables.render(template), {"kb": self.kb_id, **parameters}, binary=True)


def split_texts(
    connection: psycopg.Connection, tables: Tables, texts: Sequence[str], language: str
) -> list[TermCounts]:
    """The bag of words of each text, stemmed and without stop words."""
    parameters = {"texts": [_clean(text) for text in texts], "language": language}
    split = [bm25.EMPTY] * len(texts)
    for place, hashes, frequencies in connection.execute(tables.render(_SPLIT), parameters, binary=True):
        split[place - 1] = TermCounts.of(binary.read_int4_array(hashes), binary.read_int4_array(frequencies))
    return split


def _columns(counted: Mapping[str, TermCounts], types: Types, average: float) -> dict[str, Any]:
    lengths = np.array([counts.length for counts in counted.values()], dtype=np.int32)
    terms = [bm25.encode(counts, average) for counts in counted.values()]
    return {
        "chunks": list(counted),
        "lengths": binary.int4_array(lengths),
        "terms": binary.array(types.sparsevec, terms),
    }


def _clean(text: str) -> str:
    # Postgres takes neither NUL nor half a surrogate pair.
    return text[:_MAX_CHARACTERS].replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
