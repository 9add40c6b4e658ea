"""Transactions with a time limit on psycopg itself, below SQLAlchemy's statements but from its pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import errors

from pipeline.adapters.pgvector.binary import accept_binary
from pipeline.adapters.postgres.connection import GRACE, BoundedConnection
from pipeline.adapters.postgres.engine import borrowed, first_line, translating
from pipeline.errors import BadSettings, CeleriacError
from pipeline.time_left import within

Rows = list[tuple[Any, ...]]

_INSTALL = "Install pgvector (0.8 or newer) for this server, then run CREATE EXTENSION vector as a superuser."
_TIMEOUT = b"SELECT set_config('statement_timeout', %(timeout)s, true)"
# Searches are short and many: neither compiling nor parallel workers pay for them. Plans are made for
# the given limit, since one made for any limit prefers sorting the whole table to its HNSW index.
_SEARCH = b"""
SELECT set_config('statement_timeout', %(timeout)s, true),
       set_config('jit', 'off', true),
       set_config('max_parallel_workers_per_gather', '0', true),
       set_config('plan_cache_mode', 'force_custom_plan', true),
       set_config('enable_sort', %(sort)s, true),
       set_config('hnsw.iterative_scan', 'strict_order', true),
       set_config('hnsw.ef_search', %(ef_search)s, true)
"""


@contextmanager
def transaction(engine: sa.Engine, timeout: float) -> Iterator[psycopg.Connection]:
    """A transaction that commits at the end; no statement in it may take longer than ``timeout`` seconds."""
    with _explaining(), _borrowed(engine) as connection:
        connection.limit = max(timeout, connection.usual)  # a commit may take longer than the server was told
        connection.execute(_TIMEOUT, {"timeout": _milliseconds(timeout)})
        yield connection
        connection.commit()


@contextmanager
def snapshot(engine: sa.Engine, timeout: float) -> Iterator[psycopg.Connection]:
    """A transaction that only reads, all of it as of one moment; ``timeout`` is for each statement."""
    with _explaining(), _borrowed(engine) as connection:
        connection.limit = max(timeout, connection.usual)
        connection.isolation_level, connection.read_only = psycopg.IsolationLevel.REPEATABLE_READ, True
        try:
            connection.execute(_TIMEOUT, {"timeout": _milliseconds(timeout)})
            yield connection
        finally:
            if not connection.closed:
                connection.rollback()
                connection.isolation_level = connection.read_only = None


def search(
    engine: sa.Engine,
    statement: bytes,
    parameters: Mapping[str, Any],
    *,
    timeout: float,
    ef_search: int = 40,
    ordered_by_index: bool = False,
) -> Rows:
    """Rows of one statement, in a single round trip; none where the index was never made. The wait for a connection is
    within ``timeout``, too.
    """
    settings = {
        "timeout": _milliseconds(timeout),
        "ef_search": str(ef_search),
        "sort": "off" if ordered_by_index else "on",
    }
    with within(timeout + GRACE), _explaining(), _borrowed(engine) as connection:
        connection.limit = timeout
        try:
            with connection.pipeline():
                connection.execute(_SEARCH, settings)
                cursor = connection.execute(statement, parameters)
                connection.commit()
            return cursor.fetchall()
        except errors.UndefinedTable:
            return []


@contextmanager
def _borrowed(engine: sa.Engine) -> Iterator[BoundedConnection]:
    with borrowed(engine) as connection:
        accept_binary(connection)
        yield connection


@contextmanager
def _explaining() -> Iterator[None]:
    with translating():
        try:
            yield
        except psycopg.Error as error:
            explained = _explained(error)
            if explained is None:
                raise
            raise explained from error


def _explained(error: psycopg.Error) -> CeleriacError | None:
    line = first_line(error)
    if isinstance(error, errors.UndefinedObject) and "text search configuration" in line:
        return BadSettings(
            f"Postgres has not that language: {line}.", r"See \dF in psql for CELERIAC_KEYWORD_LANGUAGE."
        )
    if isinstance(error, errors.UndefinedFile | errors.FeatureNotSupported | errors.UndefinedObject):
        return BadSettings(f"Postgres lacks pgvector: {line}.", _INSTALL)
    if isinstance(error, errors.InsufficientPrivilege) and "extension" in line:
        return BadSettings(f"Postgres denies it: {line}.", "Run CREATE EXTENSION vector as a superuser once.")
    return None


def _milliseconds(timeout: float) -> str:
    return str(max(1, round(timeout * 1000)))
