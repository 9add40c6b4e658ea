"""Migrations, each in a database of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from pipeline.adapters.postgres.engine import make_engine
from pipeline.adapters.postgres.schema import Schema
from pipeline.errors import BadSettings
from pipeline.wiring import Parts

ROOT = Path(__file__).resolve().parents[5]
PROGRAM = """
import sys
from pipeline.adapters.postgres.engine import make_engine
from pipeline.adapters.postgres.schema import Schema
engine = make_engine(sys.argv[1], pool=1, connect_timeout=5, statement_timeout=30)
print(Schema(engine).migrate())
"""


@pytest.fixture
def empty_database(postgres_url: str) -> Iterator[str]:
    name = f"empty_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield sa.make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def engine(empty_database: str) -> Iterator[sa.Engine]:
    engine = make_engine(empty_database, pool=4, connect_timeout=5, statement_timeout=30)
    yield engine
    engine.dispose()


def test_an_empty_database_has_no_revision_and_then_the_newest(engine: sa.Engine) -> None:
    schema = Schema(engine)
    assert schema.current_revision() is None
    assert schema.migrate() == schema.newest_revision() == schema.current_revision()


def test_a_second_time_changes_nothing(engine: sa.Engine) -> None:
    schema = Schema(engine)
    assert schema.migrate() == schema.migrate()


def test_three_threads_at_once_migrate_once(engine: sa.Engine) -> None:
    start, found, errors = threading.Barrier(3, timeout=10), [], []

    def migrate() -> None:
        start.wait()
        try:
            found.append(Schema(engine).migrate())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert errors == []
    assert found == [Schema(engine).newest_revision()] * 3


def test_three_processes_at_once_migrate_once(empty_database: str, engine: sa.Engine) -> None:
    command = [sys.executable, "-c", PROGRAM, empty_database]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    told = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], told
    assert {out.strip() for out, _ in told} == {Schema(engine).current_revision()}


def test_a_lock_that_was_held_is_given_back(engine: sa.Engine) -> None:
    Schema(engine).migrate()
    with engine.connect() as connection:
        held = connection.execute(sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")).scalar()
        assert held == 0
        assert connection.execute(sa.text("SHOW statement_timeout")).scalar() == "30s"


def test_without_a_migration_every_ledger_says_what_to_do(empty_database: str) -> None:
    from pipeline.settings import Settings

    parts = Parts(Settings(DATABASE_URL=empty_database))  # type: ignore[call-arg]
    with pytest.raises(BadSettings, match="schema") as caught:
        parts.knowledge_bases.list("default")
    parts.close()
    assert "manage.py" in caught.value.hint
