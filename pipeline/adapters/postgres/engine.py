"""Connections to Postgres, and its errors in our terms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import sqlalchemy as sa
from sqlalchemy import exc

from pipeline.errors import BadSettings, CeleriacError, InternalFault, ServerFault, TimedOut, Unreachable

_DETAIL = {"upstream": "postgres"}
# A connection that was refused has no SQLSTATE: only its text tells a wrong login from a server that is down.
_REFUSED_LOGIN = re.compile(
    r'authentication failed|no password supplied|pg_hba\.conf|permission denied|(role|database) ".*" does not exist'
)


def make_engine(
    url: str, *, pool: int, connect_timeout: float, statement_timeout: float, name: str = "celeriac"
) -> sa.Engine:
    """An engine for ``url`` (``postgresql://…``); opens nothing yet.

    ``pool`` connections are kept and as many again opened under load; a caller that finds none free
    within ``statement_timeout`` gets TimedOut.
    """
    try:
        parsed = sa.make_url(url)
    except (exc.ArgumentError, ValueError):  # the latter for a port that is no number
        raise BadSettings("DATABASE_URL is not a URL.", "It looks like postgresql://user:password@host/name.") from None
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise BadSettings(f"DATABASE_URL names {parsed.get_backend_name()}, not PostgreSQL.", "Use postgresql://…")
    return sa.create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=pool,
        max_overflow=pool,
        pool_timeout=statement_timeout,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args={
            "connect_timeout": max(1, round(connect_timeout)),
            "application_name": name,
            "options": f"-c statement_timeout={int(statement_timeout * 1000)} -c timezone=UTC",
            # A connection that a proxy dropped must not hold a worker for the kernel's two hours.
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        },
    )


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that commits at the end; Postgres's errors come out as ours."""
    with translating(), engine.begin() as connection:
        yield connection


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
