"""Upkeep after a write: sums of counts, weights of an outdated average length, HNSW for what grew large.

One worker at a time does it for a knowledge base, and the others go on. What doesn't get done in time is
left to the next write.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import sqlalchemy as sa
import structlog

from pipeline.adapters.pgvector import binary, bm25
from pipeline.adapters.pgvector.session import transaction
from pipeline.adapters.pgvector.statistics import share
from pipeline.adapters.pgvector.tables import Tables, Types
from pipeline.errors import TimedOut

DRIFT = 1.03
"""Factor by which the average length may differ from the one that a chunk's weights were made with."""
COMPACT_AFTER = 64
"""Writes whose counts are kept apart before they are added up."""

_log = structlog.get_logger(__name__)

_REWEIGHT_ROWS = 2000
_FREQUENT = 4

_STATE = """
WITH size AS (
    SELECT count(*) AS writes, coalesce(sum(chunks), 0)::int8 AS chunks,
           greatest(1, coalesce(sum(length) / nullif(sum(chunks), 0), 1))::float8 AS average
    FROM {corpus} WHERE kb_id = %(kb)s::uuid
)
SELECT writes, chunks, average,
       coalesce((SELECT min(average) FROM {keywords} WHERE kb_id = %(kb)s::uuid)::float8, average),
       coalesce((SELECT max(average) FROM {keywords} WHERE kb_id = %(kb)s::uuid)::float8, average),
       to_regclass(%(hnsw)s) IS NOT NULL
FROM size
"""
_TRY = b"SELECT pg_try_advisory_xact_lock(%(key)s)"
_COMPACT_SIZE = """
WITH gone AS (DELETE FROM {corpus} WHERE kb_id = %(kb)s::uuid RETURNING chunks, length)
INSERT INTO {corpus} SELECT %(kb)s::uuid, sum(chunks), sum(length) FROM gone HAVING count(*) > 0
"""
# A knowledge base that is new since the last ANALYZE looks empty to the planner: it would compare every pair of rows.
_NO_LOOPS = b"SET LOCAL enable_nestloop = off"
_LOOPS = b"SET LOCAL enable_nestloop = on"
# Rare terms, most of the table, have a row or two and stay as they are.
_COMPACT_TERMS = """
WITH gone AS (
    DELETE FROM {counts} WHERE kb_id = %(kb)s::uuid AND term IN (
        SELECT term FROM {counts} WHERE kb_id = %(kb)s::uuid GROUP BY term HAVING count(*) >= %(frequent)s)
    RETURNING term, delta
)
INSERT INTO {counts} SELECT %(kb)s::uuid, term, sum(delta) FROM gone GROUP BY term HAVING sum(delta) <> 0
"""
_STALE = """
SELECT chunk_id::text, length, average, terms FROM {keywords}
WHERE kb_id = %(kb)s::uuid AND (average < %(low)s OR average > %(high)s)
LIMIT %(rows)s FOR UPDATE SKIP LOCKED
"""
_REWEIGHT = """
UPDATE {keywords} AS old SET average = %(average)s, terms = new.terms
FROM unnest(%(chunks)s::uuid[], %(terms)s::sparsevec[]) AS new (chunk_id, terms)
WHERE old.kb_id = %(kb)s::uuid AND old.chunk_id = new.chunk_id
"""
# It is built when the knowledge base has just passed the bound, so that it takes seconds. Writers wait for
# it, readers don't. No parallel workers: containers give them too little shared memory.
_INDEX = """
SELECT set_config('maintenance_work_mem', '256MB', true), set_config('max_parallel_maintenance_workers', '0', true);
CREATE INDEX IF NOT EXISTS {{index}} ON {vectors} USING hnsw (embedding {type}_cosine_ops) WHERE kb_id = '{{kb}}'
"""


class _State(NamedTuple):
    writes: int
    chunks: int
    average: float
    lowest: float
    highest: float
    indexed: bool

    @property
    def scattered(self) -> bool:
        return self.writes > COMPACT_AFTER

    @property
    def drifted(self) -> bool:
        return self.lowest < self.average / DRIFT or self.highest > self.average * DRIFT


@dataclass(frozen=True)
class Upkeep:
    """Keeps one knowledge base in shape; above ``exact_up_to`` chunks its vectors get an HNSW index."""

    engine: sa.Engine
    tables: Tables
    types: Types
    kb_id: str
    exact_up_to: int

    def run(self, *, timeout: float) -> None:
        """All that is due, in steps of a transaction each; begins none after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        try:
            while (left := deadline - time.monotonic()) > 0 and self._step(left):
                pass
        except TimedOut as error:  # the write before it is done and holds
            _log.warning("upkeep of pgvector put off", kb_id=self.kb_id, reason=error.message)

    def _step(self, timeout: float) -> bool:
        """Do what is due; whether there may be more."""
        with transaction(self.engine, timeout) as connection:
            return self._do_due(connection)

    def _do_due(self, connection: psycopg.Connection) -> bool:
        state = self._state(connection)
        too_large = state.chunks > self.exact_up_to and not state.indexed
        if not (state.scattered or state.drifted or too_large) or not self._alone(connection):
            return False
        if too_large:
            self._index(connection)
        if state.scattered:
            self._compact(connection)
        return state.drifted and self._reweight(connection, state.average)

    def _state(self, connection: psycopg.Connection) -> _State:
        row = self._execute(connection, _STATE, hnsw=self.tables.hnsw_index(self.kb_id)).fetchone()
        assert row is not None  # sums of no rows are a row
        return _State(*row)

    def _alone(self, connection: psycopg.Connection) -> bool:
        row = connection.execute(_TRY, {"key": self.tables.lock_key(self.kb_id, "upkeep")}).fetchone()
        return bool(row and row[0])

    def _index(self, connection: psycopg.Connection) -> None:
        template = self.tables.render(_INDEX).decode()
        names = {"index": self.tables.hnsw_index(self.kb_id), "kb": UUID(self.kb_id)}
        connection.execute(template.format(**names).encode())

    def _compact(self, connection: psycopg.Connection) -> None:
        share(connection, self.tables, self.kb_id)
        self._execute(connection, _COMPACT_SIZE)
        connection.execute(_NO_LOOPS)
        self._execute(connection, _COMPACT_TERMS, frequent=_FREQUENT)
        connection.execute(_LOOPS)

    def _reweight(self, connection: psycopg.Connection, average: float) -> bool:
        bounds = {"low": average / DRIFT, "high": average * DRIFT, "rows": _REWEIGHT_ROWS}
        rows = self._execute(connection, _STALE, **bounds).fetchall()
        terms = [bm25.encode(bm25.decode(old, length, made_with), average) for _, length, made_with, old in rows]
        new = {"chunks": [row[0] for row in rows], "terms": binary.array(self.types.sparsevec, terms)}
        self._execute(connection, _REWEIGHT, average=average, **new)
        return len(rows) == _REWEIGHT_ROWS

    def _execute(self, connection: psycopg.Connection, template: str, **parameters: Any) -> psycopg.Cursor[Any]:
        return connection.execute(self.tables.render(template), {"kb": self.kb_id, **parameters}, binary=True)
