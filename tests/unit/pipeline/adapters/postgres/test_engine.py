from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
import sqlalchemy as sa

from pipeline.adapters.postgres.engine import make_engine, transaction
from pipeline.errors import BadSettings, CeleriacError, InternalFault, NotFound, ServerFault, TimedOut, Unreachable


@pytest.fixture
def url(postgres_url: str) -> sa.URL:
    return sa.make_url(postgres_url)


@pytest.fixture
def connect() -> Iterator[Callable[..., sa.Engine]]:
    """Makes engines that are closed at the end."""
    with ExitStack() as engines:

        def make(url: sa.URL | str, pool: int = 2, statement_timeout: float = 10.0) -> sa.Engine:
            text = url if isinstance(url, str) else url.render_as_string(hide_password=False)
            engine = make_engine(text, pool=pool, connect_timeout=2, statement_timeout=statement_timeout)
            engines.callback(engine.dispose)
            return engine

        yield make


@pytest.fixture
def engine(url: sa.URL, connect: Callable[..., sa.Engine]) -> sa.Engine:
    return connect(url)


def run(engine: sa.Engine, statement: str, **values: object) -> object:
    with transaction(engine) as connection:
        return connection.execute(sa.text(statement), values).scalar()


def failure(engine: sa.Engine, statement: str, **values: object) -> CeleriacError:
    with pytest.raises(CeleriacError) as caught:
        run(engine, statement, **values)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


@pytest.mark.parametrize(
    "url",
    ["nonsense", "", "mysql://me:hunter2@host/x", "postgresql://me:hunter2@host:port/x", "redis://:hunter2@host"],
)
def test_what_is_no_address_of_postgres_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(BadSettings, match="DATABASE_URL") as caught:
        make_engine(url, pool=1, connect_timeout=1, statement_timeout=1)
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert caught.value.hint


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_every_way_to_spell_the_scheme_is_taken(scheme: str, url: sa.URL, connect: Callable[..., sa.Engine]) -> None:
    assert run(connect(url.set(drivername=scheme)), "SELECT 1") == 1


def test_sessions_are_named_run_in_utc_and_give_up_slow_statements(engine: sa.Engine) -> None:
    shown = [run(engine, f"SHOW {name}") for name in ("application_name", "timezone", "statement_timeout")]
    assert shown == ["celeriac", "UTC", "10s"]


def test_a_server_that_is_not_there_can_be_tried_again(
    connect: Callable[..., sa.Engine], free_port: Callable[[], int]
) -> None:
    error = failure(connect(f"postgresql://me:hunter2@127.0.0.1:{free_port()}/x"), "SELECT 1")
    assert type(error) is Unreachable
    assert error.detail == {"upstream": "postgres"}
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("wrong", [{"database": "nowhere"}, {"username": "nobody"}])
def test_a_login_that_is_refused_is_not_tried_again(
    wrong: dict[str, str], url: sa.URL, connect: Callable[..., sa.Engine]
) -> None:
    error = failure(connect(url.set(**wrong)), "SELECT 1")  # type: ignore[arg-type]
    assert type(error) is BadSettings
    assert next(iter(wrong.values())) in error.message
    assert "DATABASE_URL" in error.hint


def test_a_slow_statement_times_out(url: sa.URL, connect: Callable[..., sa.Engine]) -> None:
    assert type(failure(connect(url, statement_timeout=0.05), "SELECT pg_sleep(10)")) is TimedOut


def test_a_pool_that_is_used_up_says_how_to_enlarge_it(url: sa.URL, connect: Callable[..., sa.Engine]) -> None:
    engine = connect(url, pool=1, statement_timeout=1.0)
    with engine.connect(), engine.connect():
        error = failure(engine, "SELECT 1")
    assert type(error) is TimedOut
    assert "CELERIAC_DATABASE_POOL" in error.hint


def test_a_database_without_our_tables_is_told_to_migrate(engine: sa.Engine) -> None:
    error = failure(engine, "SELECT * FROM not_one_of_ours")
    assert type(error) is BadSettings
    assert "manage.py" in error.hint


def test_a_statement_that_can_not_work_is_a_defect(engine: sa.Engine) -> None:
    assert type(failure(engine, "SELECT 1 / 0")) is InternalFault


@pytest.mark.parametrize("statement", ["SELECT CAST(:text AS text)", "SELECT CAST(:json AS jsonb)"])
def test_a_nul_can_not_get_in(statement: str, engine: sa.Engine) -> None:
    name = "text" if ":text" in statement else "json"
    assert type(failure(engine, statement, **{name: "a\0b" if name == "text" else '"a\\u0000b"'})) is InternalFault


def test_a_session_that_was_ended_can_be_tried_again_and_the_next_one_works(engine: sa.Engine) -> None:
    error = failure(engine, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert type(error) is Unreachable
    assert run(engine, "SELECT 1") == 1


def test_a_connection_that_died_while_it_lay_idle_is_noticed_before_it_is_used(
    engine: sa.Engine, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.adapters.postgres.engine._TRUSTED_SECONDS", 0.0)
    process = run(engine, "SELECT pg_backend_pid()")
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [process])
    assert run(engine, "SELECT 1") == 1


def test_one_that_died_just_after_it_was_used_costs_one_retry(engine: sa.Engine, postgres_url: str) -> None:
    process = run(engine, "SELECT pg_backend_pid()")
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [process])
    assert type(failure(engine, "SELECT 1")) is Unreachable
    assert run(engine, "SELECT 1") == 1


def test_a_deadlock_can_be_tried_again(engine: sa.Engine) -> None:
    """Given two transactions that lock the same two rows in turns, one of them gets ServerFault and one its way."""
    table = f"deadlock_{uuid.uuid4().hex}"
    run_all = f"CREATE TABLE {table} AS SELECT n FROM generate_series(1, 2) AS n"
    with transaction(engine) as connection:
        connection.execute(sa.text(run_all))
    both_hold_one, errors = threading.Barrier(2, timeout=10), []

    def lock(first: int) -> None:
        try:
            with transaction(engine) as connection:
                connection.execute(sa.text("SET LOCAL deadlock_timeout = '50ms'"))
                connection.execute(sa.text(f"UPDATE {table} SET n = n WHERE n = {first}"))
                both_hold_one.wait()
                connection.execute(sa.text(f"UPDATE {table} SET n = n WHERE n = {3 - first}"))
        except CeleriacError as error:
            errors.append(error)

    threads = [threading.Thread(target=lock, args=(first,)) for first in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    with transaction(engine) as connection:
        connection.execute(sa.text(f"DROP TABLE {table}"))
    assert [type(error) for error in errors] == [ServerFault]
    assert errors[0].retryable


def test_an_error_of_ours_passes_and_nothing_is_written(engine: sa.Engine) -> None:
    name = f"rolled_back_{uuid.uuid4().hex}"

    def refuse() -> None:
        with transaction(engine) as connection:
            connection.execute(sa.text(f"CREATE TABLE {name} (n integer)"))
            raise NotFound("It isn't there.")

    with pytest.raises(NotFound, match="It isn't there"):
        refuse()
    assert run(engine, "SELECT to_regclass(:name)", name=name) is None
