"""What BM25 knows of a knowledge base as a whole: chunks, their length, and how many hold each term."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray

from pipeline.adapters.pgvector import binary
from pipeline.adapters.pgvector.bm25 import TermCounts
from pipeline.adapters.pgvector.tables import Tables

_SIZE = "SELECT coalesce(sum(chunks), 0)::int8, coalesce(sum(length), 0)::int8 FROM {corpus} WHERE kb_id = %(kb)s::uuid"
_RECORD_SIZE = "INSERT INTO {corpus} (kb_id, chunks, length) VALUES (%(kb)s::uuid, %(chunks)s, %(length)s)"
_RECORD_TERMS = """
INSERT INTO {counts} (kb_id, term, delta)
SELECT %(kb)s::uuid, * FROM unnest(%(terms)s::int4[], %(deltas)s::int4[])
"""
_TERMS = """
SELECT array_send(array_agg(term)), array_send(array_agg(held)) FROM (
    SELECT term, sum(delta)::int4 AS held FROM {counts} WHERE kb_id = %(kb)s::uuid GROUP BY term HAVING sum(delta) <> 0
) AS summed
"""
_CLEAR_SIZE = "DELETE FROM {corpus} WHERE kb_id = %(kb)s::uuid"
_CLEAR_TERMS = "DELETE FROM {counts} WHERE kb_id = %(kb)s::uuid"
_SHARE = b"SELECT pg_advisory_xact_lock_shared(%(key)s)"
_EXCLUDE = b"SELECT pg_advisory_xact_lock(%(key)s)"


class Statistics(NamedTuple):
    """Number of chunks, of words in all of them, and of chunks that hold each of ``terms`` (both arrays int32)."""

    chunks: int
    length: int
    terms: NDArray[np.int32]
    counts: NDArray[np.int32]


class CorpusChange:
    """What one transaction adds to and takes from a knowledge base."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._chunks = 0
        self._length = 0
        self._terms: list[TermCounts] = []
        self._signs: list[int] = []

    def add(self, counts: TermCounts) -> None:
        """One chunk more."""
        self._count(counts, 1)

    def remove(self, counts: TermCounts) -> None:
        """One chunk less."""
        self._count(counts, -1)

    def record(self, connection: psycopg.Connection, tables: Tables, kb_id: str) -> None:
        """Append it to the statistics; writes nothing where nothing changed."""
        if not self._terms:
            return
        _append(connection, tables, kb_id, Statistics(self._chunks, self._length, *self._deltas()))

    def _count(self, counts: TermCounts, sign: int) -> None:
        self._chunks += sign
        self._length += sign * counts.length
        self._terms.append(counts)
        self._signs.append(sign)

    def _deltas(self) -> tuple[Any, Any]:
        every = np.concatenate([counts.terms for counts in self._terms])
        signs = np.repeat(self._signs, [len(counts.terms) for counts in self._terms])
        terms, places = np.unique(every, return_inverse=True)
        deltas = np.bincount(places, weights=signs, minlength=len(terms)).astype(np.int32)
        return terms[deltas != 0], deltas[deltas != 0]


def share(connection: psycopg.Connection, tables: Tables, kb_id: str) -> None:
    """Keep the knowledge base from being dropped until the transaction ends; writers don't exclude each other."""
    connection.execute(_SHARE, {"key": tables.lock_key(kb_id, "content")})


def exclude(connection: psycopg.Connection, tables: Tables, kb_id: str) -> None:
    """Keep all writers out until the transaction ends."""
    connection.execute(_EXCLUDE, {"key": tables.lock_key(kb_id, "content")})


def corpus_size(connection: psycopg.Connection, tables: Tables, kb_id: str) -> tuple[int, int]:
    """Number of chunks, and of words in all of them."""
    row = connection.execute(tables.render(_SIZE), {"kb": kb_id}).fetchone()
    return (row[0], row[1]) if row else (0, 0)


def read_statistics(connection: psycopg.Connection, tables: Tables, kb_id: str) -> Statistics:
    """All that is recorded, added up."""
    row = connection.execute(tables.render(_TERMS), {"kb": kb_id}, binary=True).fetchone()
    none = np.empty(0, np.int32)
    terms, counts = (none, none) if row is None or row[0] is None else map(binary.read_int4_array, row)
    return Statistics(*corpus_size(connection, tables, kb_id), terms, counts)


def replace_statistics(connection: psycopg.Connection, tables: Tables, kb_id: str, statistics: Statistics) -> None:
    """Record these instead of what there is; for one who has excluded all writers."""
    for clear in (_CLEAR_SIZE, _CLEAR_TERMS):
        connection.execute(tables.render(clear), {"kb": kb_id})
    _append(connection, tables, kb_id, statistics)


def _append(connection: psycopg.Connection, tables: Tables, kb_id: str, change: Statistics) -> None:
    size = {"kb": kb_id, "chunks": change.chunks, "length": change.length}
    connection.execute(tables.render(_RECORD_SIZE), size)
    rows = {"kb": kb_id, "terms": binary.int4_array(change.terms), "deltas": binary.int4_array(change.counts)}
    connection.execute(tables.render(_RECORD_TERMS), rows)
