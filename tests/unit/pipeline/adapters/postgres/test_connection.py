"""What becomes of those who wait for a Postgres that says nothing: its process for their connection is stopped."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from pipeline.adapters.pgvector.session import search, snapshot
from pipeline.adapters.pgvector.session import transaction as bounded_transaction
from pipeline.adapters.postgres.connection import GRACE
from pipeline.adapters.postgres.engine import allow, fetched, make_engine, statement, transaction
from pipeline.errors import CeleriacError, TimedOut, Unreachable
from pipeline.time_left import within

ROOT = Path(__file__).resolve().parents[5]
STATEMENT = 0.3
THAWS_AFTER = 25.0
ONE = sa.text("SELECT 1 AS one")
PROCESS = sa.text("SELECT pg_backend_pid() AS pid")
IN_GREENLETS = """
from gevent import monkey; monkey.patch_all()
import gevent, os, signal, sys, time
import sqlalchemy as sa
from pipeline.adapters.postgres.engine import fetched, make_engine
from pipeline.errors import Unreachable
engine = make_engine(sys.argv[1], pool=1, connect_timeout=2, statement_timeout=0.3)
[row] = fetched(engine, sa.text("SELECT pg_backend_pid() AS pid"), {})
os.kill(row["pid"], signal.SIGSTOP)
try:
    begun = time.monotonic()
    waits = gevent.spawn(fetched, engine, sa.text("SELECT 1 AS one"), {})
    gevent.sleep(0)
    assert fetched(engine, sa.text("SELECT 2 AS two"), {}) == [{"two": 2}]
    assert time.monotonic() - begun < 1
    waits.join(8)
    print(type(waits.exception).__name__, time.monotonic() - begun < 4)
finally:
    os.kill(row["pid"], signal.SIGCONT)
"""

Ask = Callable[[sa.Engine], object]


@pytest.fixture
def connect(postgres_url: str) -> Iterator[Callable[..., sa.Engine]]:
    """Makes engines that are closed at the end."""
    with ExitStack() as engines:

        def make(statement_timeout: float = STATEMENT, pool: int = 1, connect_timeout: float = 2) -> sa.Engine:
            engine = make_engine(
                postgres_url, pool=pool, connect_timeout=connect_timeout, statement_timeout=statement_timeout
            )
            engines.callback(engine.dispose)
            return engine

        yield make


@contextmanager
def frozen(engine: sa.Engine) -> Iterator[None]:
    """The server's process for the connection that comes next doesn't run."""
    [row] = fetched(engine, PROCESS, {})
    with stopped(int(row["pid"])):
        yield


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """It doesn't run; after a while it does all the same, so that a test in which somebody waits for ever fails."""
    server = psutil.Process(process)
    thaw = threading.Timer(THAWS_AFTER, server.resume)
    server.suspend()
    thaw.start()
    try:
        yield
    finally:
        thaw.cancel()
        server.resume()


def failure(ask: Ask, engine: sa.Engine) -> tuple[CeleriacError, float]:
    """What it raises, and after how many seconds."""
    begun = time.monotonic()
    with pytest.raises(CeleriacError) as caught:
        ask(engine)
    return caught.value, time.monotonic() - begun


def in_statement(engine: sa.Engine) -> None:
    with statement(engine) as connection:
        connection.execute(ONE)


def in_transaction(engine: sa.Engine) -> None:
    with transaction(engine) as connection:
        connection.execute(ONE)


def in_bounded_transaction(engine: sa.Engine) -> None:
    with bounded_transaction(engine, STATEMENT) as connection:
        connection.execute("SELECT 1")


def in_snapshot(engine: sa.Engine) -> None:
    with snapshot(engine, STATEMENT) as connection:
        connection.execute("SELECT 1")


WAYS: dict[str, Ask] = {
    "fetched": lambda engine: fetched(engine, ONE, {}),
    "statement": in_statement,
    "transaction": in_transaction,
    "search": lambda engine: search(engine, b"SELECT 1", {}, timeout=STATEMENT),
    "bounded transaction": in_bounded_transaction,
    "snapshot": in_snapshot,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_says_nothing_is_given_up_and_the_next_one_who_asks_has_another_connection(
    way: str, connect: Callable[..., sa.Engine]
) -> None:
    engine = connect()
    with frozen(engine):
        error, seconds = failure(WAYS[way], engine)
        assert type(error) is Unreachable
        assert error.detail == {"upstream": "postgres"}
        assert "no answer within 1.3 s" in error.message
        assert STATEMENT + GRACE <= seconds < STATEMENT + GRACE + 15
        assert fetched(engine, ONE, {}) == [{"one": 1}]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_a_commit_that_nobody_answers_is_given_up_as_well(connect: Callable[..., sa.Engine]) -> None:
    def commit(engine: sa.Engine) -> None:
        with transaction(engine) as connection:
            froze.enter_context(stopped(connection.execute(PROCESS).scalar_one()))

    with ExitStack() as froze:
        error, seconds = failure(commit, connect())
    assert type(error) is Unreachable
    assert seconds < STATEMENT + GRACE + 15


def test_in_a_gevent_worker_nobody_else_waits_with_who_waits(postgres_url: str) -> None:
    command = [sys.executable, "-c", IN_GREENLETS, postgres_url]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert told.stdout.split() == ["Unreachable", "True"], told.stderr


def test_the_server_gives_up_a_slow_statement_first_and_the_connection_stays(
    connect: Callable[..., sa.Engine],
) -> None:
    engine = connect()
    [before] = fetched(engine, PROCESS, {})
    error, _ = failure(lambda engine: fetched(engine, sa.text("SELECT pg_sleep(8)"), {}), engine)
    assert type(error) is TimedOut
    assert fetched(engine, PROCESS, {}) == [before]


# --------------------------------------------------------------------------- who may take longer

LONGER = STATEMENT + GRACE + 0.5


def test_what_the_server_was_told_to_allow_is_waited_for_and_for_that_transaction_only(
    connect: Callable[..., sa.Engine],
) -> None:
    engine = connect()
    with bounded_transaction(engine, 10) as connection:
        connection.execute("SELECT pg_sleep(%s)", [LONGER])
    with snapshot(engine, 10) as connection:
        connection.execute("SELECT pg_sleep(%s)", [LONGER])
    with transaction(engine) as aware:
        allow(aware, 10)
        aware.execute(sa.text("SET LOCAL statement_timeout = '10s'"))
        aware.execute(sa.text("SELECT pg_sleep(:seconds)"), {"seconds": LONGER})
    with frozen(engine):
        _, seconds = failure(in_transaction, engine)
        assert seconds < STATEMENT + GRACE + 15


def test_a_search_with_more_time_than_a_statement_has_it(connect: Callable[..., sa.Engine]) -> None:
    assert search(connect(), b"SELECT 1, pg_sleep(%(seconds)s)", {"seconds": LONGER}, timeout=10) == [(1, "")]


# --------------------------------------------------------------------------- the time of a question


def test_nobody_waits_for_an_answer_for_longer_than_they_have_time(connect: Callable[..., sa.Engine]) -> None:
    engine = connect(statement_timeout=30)
    with frozen(engine), within(1.5):
        error, seconds = failure(WAYS["fetched"], engine)
    assert type(error) is Unreachable
    assert 1.4 <= seconds < 15


def test_nor_for_a_connection(connect: Callable[..., sa.Engine]) -> None:
    engine = connect(statement_timeout=30)
    with engine.connect(), engine.connect():
        with within(1.2):
            error, seconds = failure(WAYS["fetched"], engine)
        assert type(error) is TimedOut
        assert 1.1 <= seconds < 15
        error, seconds = failure(lambda engine: search(engine, b"SELECT 1", {}, timeout=0.1), engine)
        assert type(error) is TimedOut
        assert seconds < 15


def test_who_is_out_of_time_is_served_by_a_server_that_is_well_but_opens_no_connection(
    connect: Callable[..., sa.Engine],
) -> None:
    engine = connect()
    with within(-1):
        error, _ = failure(WAYS["fetched"], engine)
        assert type(error) is Unreachable
    assert fetched(engine, ONE, {}) == [{"one": 1}]
    with within(-1):
        assert fetched(engine, ONE, {}) == [{"one": 1}]


def test_whether_an_idle_connection_works_is_soon_known(
    connect: Callable[..., sa.Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = connect(statement_timeout=30, connect_timeout=0.2)
    with frozen(engine):
        monkeypatch.setattr("pipeline.adapters.postgres.engine._TRUSTED_SECONDS", 0.0)
        begun = time.monotonic()
        assert fetched(engine, ONE, {}) == [{"one": 1}]
        assert time.monotonic() - begun < 15


def test_the_network_gives_up_what_is_never_acknowledged(postgres_url: str) -> None:
    from pipeline.adapters.postgres.connection import BoundedConnection

    engine = make_engine(postgres_url, pool=1, connect_timeout=2, statement_timeout=7)
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, BoundedConnection)
        assert driver.info.get_parameters()["tcp_user_timeout"] == "7000"
    engine.dispose()
