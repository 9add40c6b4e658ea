"""Migrations, each in a database of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from pipeline.adapters.postgres.connection import GRACE
from pipeline.adapters.postgres.engine import make_engine
from pipeline.adapters.postgres.questions import Questions
from pipeline.adapters.postgres.runs import Runs
from pipeline.adapters.postgres.schema import _LOCK, Schema
from pipeline.errors import BadSettings, Conflict, ServerFault
from pipeline.types import AskState, Question, RunOptions, Source, StageFailure
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


def test_who_migrates_waits_for_the_lock_for_longer_than_a_statement_may_take(empty_database: str) -> None:
    hasty = make_engine(empty_database, pool=1, connect_timeout=5, statement_timeout=0.5)
    held = threading.Event()

    def hold() -> None:
        with psycopg.connect(empty_database) as other:
            other.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
            held.set()
            time.sleep(0.5 + GRACE + 0.5)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    assert Schema(hasty).migrate() == Schema(hasty).newest_revision()
    holder.join()
    hasty.dispose()


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


# --------------------------------------------------------------------------- 0001 and 0002, with rows in them

OLD = """
INSERT INTO tenants (name) VALUES ('t');
INSERT INTO knowledge_bases (tenant_id, name, embedding_model, dimensions, store)
    SELECT id, 'kb', 'm', 3, 'pgvector' FROM tenants;
INSERT INTO runs (id, kb_id, status, options)
    SELECT gen_random_uuid(), k.id, s, '{}' FROM knowledge_bases k,
        unnest(ARRAY['discovering', 'running', 'done', 'failed', 'cancelled']) s;
INSERT INTO run_items (run_id, number, batch, key, source, status)
    SELECT r.id, n, 0, 'k' || n, '{"key": "k", "origin": "k", "format": "text"}', s FROM runs r,
        unnest(ARRAY['queued', 'parsed', 'chunked', 'embedded', 'done', 'unchanged', 'failed', 'cancelled'])
        WITH ORDINALITY AS i(s, n)
"""


def move(database: str, direction: str, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(ROOT / "pipeline" / "adapters" / "postgres" / "migrations"))
    engine = make_engine(database, pool=1, connect_timeout=5, statement_timeout=30)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        getattr(command, direction)(config, revision)
    engine.dispose()


def rows(engine: sa.Engine, statement: str) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement))]


def test_runs_that_were_open_when_bulk_ingest_came_are_ended_with_what_to_do(
    empty_database: str, engine: sa.Engine
) -> None:
    """They have no batches: nobody would ever go on with them."""
    move(empty_database, "upgrade", "0001")
    with engine.begin() as connection:
        connection.exec_driver_sql(OLD)
    move(empty_database, "upgrade", "0002")
    ended = rows(
        engine, "SELECT error->>'code', error->>'hint' FROM runs WHERE status = 'failed' AND error IS NOT NULL"
    )
    assert ended == [("InternalFault", "Ingest again.")] * 2
    assert rows(engine, "SELECT status, count(*) FROM runs GROUP BY 1 ORDER BY 1") == [
        ("cancelled", 1),
        ("done", 1),
        ("failed", 3),
    ]
    states = rows(engine, "SELECT status, count(*) FROM run_items GROUP BY 1 ORDER BY 1")
    assert states == [("done", 5), ("failed", 5), ("queued", 25), ("unchanged", 5)]
    ledger = Runs(engine)
    ((cancelled,),) = rows(engine, "SELECT id::text FROM runs WHERE status = 'cancelled'")
    with pytest.raises(Conflict) as caught:
        ledger.reopen(str(cancelled))
    assert "Ingest again" in caught.value.hint


def test_the_way_back_keeps_the_rows_and_can_be_gone_again(empty_database: str, engine: sa.Engine) -> None:
    move(empty_database, "upgrade", "0001")
    before = rows(engine, COLUMNS)
    indexes = rows(engine, INDEXES)
    with engine.begin() as connection:
        connection.exec_driver_sql(OLD)
    move(empty_database, "upgrade", "0002")
    (kb,) = rows(engine, "SELECT id::text FROM knowledge_bases")
    ledger = Runs(engine)
    ledger.create(run_id := str(uuid.uuid4()), str(kb[0]), RunOptions())
    ledger.add(run_id, 0, [(0, Source(key="k", origin="k", format="text"))])
    ledger.start(run_id)
    move(empty_database, "downgrade", "0001")
    assert rows(engine, COLUMNS) == before
    assert rows(engine, INDEXES) == indexes
    assert rows(engine, "SELECT count(*) FROM run_items") == [(41,)]
    move(empty_database, "upgrade", "0002")
    assert rows(engine, f"SELECT status FROM runs WHERE id = '{run_id}'") == [("failed",)]


def test_what_came_after_cancelling_can_be_given_up_and_come_back_without_touching_questions(
    empty_database: str, engine: sa.Engine
) -> None:
    move(empty_database, "upgrade", "0004")
    before, indexes = rows(engine, COLUMNS), rows(engine, INDEXES)
    move(empty_database, "upgrade", "head")
    ledger, now = Questions(engine), time.time()
    question = Question(id=str(uuid.uuid4()), text="Why?", submitted_at=now, deadline=now + 60)
    ledger.submit(question)
    failure = StageFailure(stage="embed", state=AskState(question=question))
    assert ledger.fail(question.id, ServerFault("It broke."), epoch=0, failure=failure)
    move(empty_database, "downgrade", "0004")
    assert (rows(engine, COLUMNS), rows(engine, INDEXES)) == (before, indexes)
    move(empty_database, "upgrade", "head")
    assert rows(engine, "SELECT count(*) FROM dead_letters") == [(0,)]
    assert ledger.find(question.id).status == "failed"


COLUMNS = """
SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
WHERE table_schema = 'public' ORDER BY 1, 2
"""
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
