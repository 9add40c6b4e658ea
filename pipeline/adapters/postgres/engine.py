"""Connections to Postgres, and its errors in our terms."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from sqlalchemy import exc
from sqlalchemy.util import queue

from pipeline.adapters.postgres.connection import BoundedConnection, at_most
from pipeline.errors import BadSettings, CeleriacError, InternalFault, ServerFault, TimedOut, Unreachable
from pipeline.time_left import time_left

# So long after its last use a connection is taken to be alive. One that isn't costs its user a retry.
_TRUSTED_SECONDS = 2.0
_DETAIL = {"upstream": "postgres"}
# A connection that was refused has no SQLSTATE: only its text tells a wrong login from a server that is down.
_REFUSED_LOGIN = re.compile(
    r'authentication failed|no password supplied|pg_hba\.conf|permission denied|(role|database) ".*" does not exist'
)


def make_engine(
    url: str, *, pool: int, connect_timeout: float, statement_timeout: float, name: str = "celeriac"
) -> sa.Engine:
    """An engine for ``url`` (``postgresql://…``); opens nothing yet.

    Up to twice ``pool`` connections are opened as they are needed, and kept; a caller that finds none free within
    ``statement_timeout``, or the time it has left, gets TimedOut.
    """
    try:
        parsed = sa.make_url(url)
    except (exc.ArgumentError, ValueError):  # the latter for a port that is no number
        raise BadSettings("DATABASE_URL is not a URL.", "It looks like postgresql://user:password@host/name.") from None
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise BadSettings(f"DATABASE_URL names {parsed.get_backend_name()}, not PostgreSQL.", "Use postgresql://…")
    engine = sa.create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        poolclass=_Pool,
        # All are kept: SQLAlchemy closes an overflow when it is given back, and opens it again at the next wave.
        pool_size=2 * pool,
        max_overflow=0,
        pool_use_lifo=True,  # a few busy ones know their statements; FIFO would teach all of them
        pool_timeout=statement_timeout,
        pool_recycle=1800,
        connect_args={
            "connect_timeout": max(1, round(connect_timeout)),
            "application_name": name,
            "options": f"-c statement_timeout={int(statement_timeout * 1000)} -c timezone=UTC",
            # A connection that a proxy dropped must not hold a worker for the kernel's two hours.
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            # Nor one on which what was sent is never acknowledged: meanwhile nothing is sent to keep it alive.
            "tcp_user_timeout": int(statement_timeout * 1000),
        },
    )
    _bound(engine, statement_timeout)
    _test_what_lay_idle(engine, connect_timeout)
    return engine


class _Queue(queue.Queue[sa.pool.ConnectionPoolEntry]):
    """Connections that are free; nobody waits for one for longer than they have time."""

    def get(self, block: bool = True, timeout: float | None = None) -> sa.pool.ConnectionPoolEntry:
        return super().get(block, None if timeout is None else at_most(timeout))


class _Pool(sa.pool.QueuePool):
    _queue_class = _Queue


def _bound(engine: sa.Engine, statement_timeout: float) -> None:
    """Connections are such as end in time, and each is given back with its usual limit."""

    @sa.event.listens_for(engine, "do_connect")
    def _connect(
        _dialect: sa.Dialect, _record: object, arguments: list[Any], options: dict[str, Any]
    ) -> BoundedConnection:
        if time_left() < 0:  # it takes two seconds to find out that nobody answers, and those are not there
            raise psycopg.OperationalError("the time is over before a connection is open")
        options["connect_timeout"] = max(1, round(at_most(options["connect_timeout"])))
        connection = BoundedConnection.connect(*arguments, **options)
        connection.usual = connection.limit = statement_timeout
        return connection

    @sa.event.listens_for(engine, "checkin")
    def _as_usual(connection: BoundedConnection | None, _record: object) -> None:
        if connection is not None:
            connection.limit = connection.usual


def _test_what_lay_idle(engine: sa.Engine, patience: float) -> None:
    """Before a connection that nobody has used for a while is handed out, ask whether it still works; it gets
    ``patience`` seconds to say so.

    SQLAlchemy's own ``pool_pre_ping`` asks each time: a twentieth of the time of an ingest.
    """

    @sa.event.listens_for(engine, "checkin")
    def _note(_connection: object, record: sa.pool.ConnectionPoolEntry) -> None:
        record.info["used"] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def _test(connection: BoundedConnection, record: sa.pool.ConnectionPoolEntry, _proxy: object) -> None:
        if time.monotonic() - record.info.get("used", time.monotonic()) < _TRUSTED_SECONDS:
            return
        connection.limit = patience
        try:
            connection.execute("SELECT 1")
            connection.rollback()
        except psycopg.Error:
            raise exc.DisconnectionError from None  # the pool takes another one
        connection.limit = connection.usual


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that commits at the end; Postgres's errors come out as ours."""
    with translating(), engine.begin() as connection:
        yield connection


@contextmanager
def statement(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection for one statement, which is its own transaction: one round trip to Postgres instead of three."""
    with translating(), _autocommitting(engine).connect() as connection:
        yield connection


def fetched(engine: sa.Engine, query: sa.TextClause, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All rows of one statement, which is its own transaction. For what every question needs: past SQLAlchemy's
    connections it takes half the processor time.
    """
    with translating(), borrowed(engine) as connection:
        connection.autocommit = True
        try:
            with connection.cursor(row_factory=dict_row) as cursor:
                return cursor.execute(_plain(query, engine.dialect), parameters).fetchall()
        finally:
            if connection.info.transaction_status == TransactionStatus.IDLE:
                connection.autocommit = False


@contextmanager
def borrowed(engine: sa.Engine) -> Iterator[BoundedConnection]:
    """A connection of the pool as psycopg's own."""
    pooled = engine.raw_connection()
    connection = cast("BoundedConnection", pooled.driver_connection)
    try:
        yield connection
    except BaseException as error:
        # A connection that broke, or that a worker's time limit left in mid-query, is of no more use.
        if connection.closed or not isinstance(error, Exception):
            pooled.invalidate()
        raise
    finally:
        pooled.close()


def allow(connection: sa.Connection, seconds: float) -> None:
    """The server was told to let statements on this connection run for so long; we wait for them accordingly."""
    cast("BoundedConnection", connection.connection.driver_connection).limit = seconds


@contextmanager
def translating() -> Iterator[None]:
    """Turn SQLAlchemy's and psycopg's errors into ours."""
    try:
        yield
    except CeleriacError:
        raise
    except exc.TimeoutError as error:
        raise TimedOut("No Postgres connection came free in time.", "Raise CELERIAC_DATABASE_POOL.", _DETAIL) from error
    except exc.DBAPIError as error:
        raise _translated(error.orig or error) from error
    except psycopg.Error as error:
        raise _translated(error) from error
    except UnicodeEncodeError:
        raise BadSettings("A name holds bytes that are not UTF-8.", "Spell names in UTF-8.") from None


@lru_cache(maxsize=64)
def _autocommitting(engine: sa.Engine) -> sa.Engine:
    """The same engine, on the same pool, without transactions around statements."""
    return engine.execution_options(isolation_level="AUTOCOMMIT")


@lru_cache(maxsize=64)
def _plain(query: sa.TextClause, dialect: sa.Dialect) -> bytes:
    return str(query.compile(dialect=dialect)).encode()


def _translated(error: BaseException) -> CeleriacError:
    line = first_line(error)
    if isinstance(error, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
        return TimedOut(f"Postgres gave up a statement: {line}.", "", _DETAIL)
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
        return BadSettings(f"The database has not Celeriac's schema: {line}.", "Run `manage.py up`; it migrates.")
    if isinstance(error, psycopg.OperationalError) and _REFUSED_LOGIN.search(line):
        return BadSettings(f"Postgres refuses the login: {line}.", "Check user, password and name in DATABASE_URL.")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return BadSettings(f"Postgres denies it: {line}.", "Grant it to the user in DATABASE_URL.")
    if isinstance(error, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure):
        return ServerFault(f"Postgres rolled back: {line}.", "", _DETAIL)
    if isinstance(error, psycopg.OperationalError):
        return Unreachable(f"Postgres can't be reached: {line}.", "Is it running? See `manage.py doctor`.", _DETAIL)
    return InternalFault(f"Postgres refused a statement: {type(error).__name__}: {line}.")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 300 characters, without a full stop."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(". ")
