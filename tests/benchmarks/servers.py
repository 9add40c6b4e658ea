"""What the benchmarks run on: an embedded stack, the stand-in and Weaviate, all our own and stopped at the end."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from deploy.local.detached import spawn_detached
from deploy.local.stack import down
from deploy.local.state import StackState, read_state
from tests import weaviate_server
from tests.benchmarks.processes import cpu_of
from tests.command_line import ROOT, CommandLine, Outcome
from tests.standin.fixture import StandInProcess

OWN = ("REDIS_URL", "DATABASE_URL", "WEAVIATE_URL", "WEAVIATE_GRPC_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL")
"""Variables that name services: those of the caller are not used, but for Weaviate."""
FOLDER = "BENCHMARK_FOLDER"
"""Variable that names the folder where workers note what they spent (see timers.py)."""
STORE_CONNECTIONS = "celeriac-store"
"""The application_name of the connections that pgvector has to itself there."""


_STORE_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"


class Store(NamedTuple):
    """A vector store: the variables that choose it, and its process where that is our own."""

    environment: dict[str, str]
    pid: int | None


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """A folder for a stack; Postgres, which does not run as root, can come here."""
    with tempfile.TemporaryDirectory(prefix="celeriac-bench-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o711)
        yield Path(home)


@contextlib.contextmanager
def standin(**config: Any) -> Iterator[StandInProcess]:
    """The stand-in of the model services, with this behaviour."""
    process = StandInProcess()
    try:
        process.configure(**config)
        yield process
    finally:
        process.stop()


@contextlib.contextmanager
def vector_store(name: str) -> Iterator[Store]:
    """pgvector, which needs nothing; the Weaviate in WEAVIATE_URL, or a process of our own."""
    if name == "pgvector":
        yield Store({}, None)
    elif weaviate_server.CONFIGURED_URL:
        grpc = weaviate_server.CONFIGURED_GRPC_URL
        url = {"WEAVIATE_URL": weaviate_server.CONFIGURED_URL}
        yield Store(url | ({"WEAVIATE_GRPC_URL": grpc} if grpc else {}), None)
    elif weaviate_server.weaviate_program() is None:
        sys.exit("No Weaviate: set WEAVIATE_URL, or put the program `weaviate` on PATH.")
    else:
        server = weaviate_server.WeaviateServer()
        try:
            server.start()
            yield Store({"WEAVIATE_URL": server.url, "WEAVIATE_GRPC_URL": server.grpc_url}, server.pid)
        finally:
            server.remove()


class MeasuredStack:
    """A stack whose workers note what they spend, without Flower."""

    def __init__(self, home: Path, store: Store, environment: Mapping[str, str]) -> None:
        """Not started yet."""
        self.home = home
        self.store = store
        self.notes = home / "notes"
        self.notes.mkdir()
        clean = {name: value for name, value in os.environ.items() if name not in OWN}
        self.environment = {**clean, "NO_COLOR": "1", **store.environment, **environment, "CELERIAC_HOME": str(home)}

    def start(self, workers: int) -> None:
        """Return once it takes work."""
        environment = {**self.environment, FOLDER: str(self.notes), "PYTHONPATH": str(ROOT)}
        command = (sys.executable, "-m", "tests.benchmarks.up")
        spawn_detached(self.home, workers, environment=environment, command=command, cwd=ROOT)

    def stop(self) -> None:
        """Stop all of it; nothing where nothing runs."""
        down(self.home)

    @property
    def state(self) -> StackState:
        """Its processes and services."""
        state = read_state(self.home)
        assert state is not None, "not started"
        return state

    @property
    def urls(self) -> dict[str, str]:
        """REDIS_URL and DATABASE_URL."""
        return self.state.environment

    @property
    def trees(self) -> dict[str, int]:
        """Its processes, services and vector store by name."""
        trees = {name: process.pid for name, process in self.state.processes.items()}
        trees |= {service.name: service.process.pid for service in self.state.services}
        return trees | ({} if self.store.pid is None else {"weaviate": self.store.pid})

    def store_cpu(self) -> float:
        """Seconds of processor time that Postgres has used for the vector store's connections there are."""
        with psycopg.connect(self.urls["DATABASE_URL"]) as connection:
            rows = connection.execute(_STORE_BACKENDS, [STORE_CONNECTIONS]).fetchall()
        return cpu_of(frozenset(row[0] for row in rows))

    def sampled(self) -> Counter[str]:
        """Seconds of processor time of the workers by kind of work, as they have noted them."""
        cpu: Counter[str] = Counter()
        for file in self.notes.glob("cpu-*.json"):
            cpu.update(json.loads(file.read_text()))
        return cpu

    @property
    def manage(self) -> CommandLine:
        """``manage.py`` for this stack."""
        line = CommandLine({})
        line.environment = dict(self.environment)
        return line


@contextlib.contextmanager
def measured_stack(store: str, workers: int, environment: Mapping[str, str] | None = None) -> Iterator[MeasuredStack]:
    """A stack with ``workers`` ingest processes, and as many parse children."""
    with vector_store(store) as found, temporary_home() as home:
        several = {"PARSE_CONCURRENCY": str(workers)}
        stack = MeasuredStack(home, found, {**several, **(environment or {})})
        try:
            stack.start(workers)
            yield stack
        finally:
            stack.stop()


def done(outcome: Outcome) -> Outcome:
    """The outcome of a command that ended well; else the end of the program, with its message."""
    if outcome.status:
        sys.exit(outcome.err or outcome.out)
    return outcome
