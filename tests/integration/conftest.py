"""One installation for all tests here: real servers, real workers, and the client in this process.

The model that answers is the stand-in, so that a test can make it slow or faulty; vectors are those of the offline
model. Celery's configuration is read when `tasks` is imported, so nothing here may import it earlier than ``parts``.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa

from pipeline import settings
from pipeline.adapters.redis_pace import decoded
from pipeline.breaker import FRESH
from pipeline.types import KnowledgeBase
from pipeline.wiring import Parts
from tests.installation import ingest, new_kb, write
from tests.standin.fixture import StandInProcess
from tests.workers import WorkerProcess

if TYPE_CHECKING:
    from tasks.client import Client

FACTS = {
    "owls": "Owls hunt at night and see in the dark.",
    "rivers": "The river Volga flows into the Caspian Sea.",
    "bread": "Sourdough bread rises slowly overnight.",
}


@pytest.fixture(scope="session")
def database_url(postgres_url: str) -> str:
    """A database of its own: what reconciles looks at all open questions and runs, and other tests leave some."""
    name = f"integration_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return sa.make_url(postgres_url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def environment(redis_url: str, database_url: str, standin_process: StandInProcess) -> Mapping[str, str]:
    """What the worker and the client are configured with; a namespace that nobody else uses."""
    return {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "OPENAI_API_KEY": "test",
        "OPENAI_BASE_URL": standin_process.url,
        "CELERIAC_EMBEDDING_MODEL": settings.OFFLINE_EMBEDDER,
        "CELERIAC_NAMESPACE": f"test-{uuid.uuid4().hex}",
        "CELERIAC_CHUNK_TOKENS": "60",
        "CELERIAC_CACHE": "false",  # the same question is asked again and again, to see what comes of it
        "CELERIAC_BATCH_DOCUMENTS": "16",
        "CELERIAC_WAVE_BATCHES": "4",
        "CELERIAC_HEARTBEAT_TTL": "4",
        "CELERIAC_RETRY_BACKOFF": "0.05",
        "CELERIAC_RETRY_BACKOFF_MAX": "0.2",
        "CELERIAC_TASK_EVENTS": "true",
        "CELERIAC_PARSE_TIMEOUT": "4",
        "CELERIAC_INGEST_PATIENCE": "8",
        "CELERIAC_BUDGET_TOKENS": '{"cancelled": 20, "failed": 20}',
        # Celery's prefork pool may take 5 s to notice that a process died.
        "CELERIAC_MAX_CRASHES": "2",
        "CELERIAC_PARSE_MEMORY_MB": "160",
        "CELERIAC_SILENCE_LEAST": "15",  # or what a worker has seen in one test decides what it does in the next
    }


@pytest.fixture(scope="session")
def parts(environment: Mapping[str, str]) -> Iterator[Parts]:
    """The parts of this process, which its tasks share."""
    if "celeryconfig" in sys.modules:
        pytest.fail("Something imported `tasks` before its Redis was known: import it inside tests.", pytrace=False)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        from tasks import client, control, recovery, runtime  # noqa: F401

        parts = Parts(settings.load())
    runtime.use(parts)
    parts.schema.migrate()
    yield parts
    parts.close()


@pytest.fixture(scope="session")
def client(parts: Parts) -> Client:
    """The door that ``manage.py`` uses."""
    from tasks.client import Client

    return Client(parts)


@pytest.fixture(scope="session")
def app(parts: Parts) -> Any:
    """The Celery application."""
    from tasks.app import app

    return app


@pytest.fixture(scope="session")
def worker(
    environment: Mapping[str, str], parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    """The worker of the session, beside one that parses. Nobody serves ``control``: tests put there what nobody is to
    take yet.
    """
    logs = tmp_path_factory.mktemp("workers")
    waiting = WorkerProcess(environment, logs / "waiting", name=f"waiting-{os.getpid()}", queues="ask,ingest")
    deadly = ["--include", "tests.deadly", "--prefetch-multiplier", "1"]
    parsing = WorkerProcess(
        environment,
        logs / "parsing",
        name=f"parsing-{os.getpid()}",
        queues="parse",
        pool="prefork",
        concurrency=1,
        options=deadly,
    )
    try:
        waiting.wait_until_ready()
        parsing.wait_until_ready()
        yield waiting
    finally:
        for process in (waiting, parsing):
            process.process.terminate()
        for process in (waiting, parsing):
            process.stop()


@pytest.fixture(autouse=True)
def _nothing_is_held_against_a_service(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a service refused in one test is forgotten in the next, also by the worker."""
    if "parts" not in request.fixturenames:
        yield
        return
    parts: Parts = request.getfixturevalue("parts")
    yield
    gates = list(parts.redis.scan_iter(f"{parts.settings.namespace}:pace:*"))
    if any(not decoded(parts.redis.get(gate) or b"").lets_pass for gate in gates):  # type: ignore[arg-type]
        parts.redis.delete(*gates)
        time.sleep(2 * FRESH)


@pytest.fixture(scope="session")
def facts(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBase:
    """A small knowledge base, filled without the worker."""
    folder = tmp_path_factory.mktemp("facts")
    write(folder, **FACTS)
    kb = new_kb(parts)
    ingest(parts, kb, folder)
    return kb


@pytest.fixture
def kb(parts: Parts) -> KnowledgeBase:
    """A new, empty knowledge base."""
    return new_kb(parts)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """An empty folder for documents."""
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder
