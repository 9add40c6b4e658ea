"""An installation of its own for storms: servers, workers by the lines of the Procfile, a corpus, and a client in this
process.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import logs
from pipeline import settings as settings_of
from pipeline.wiring import Parts
from tests.chaos.crew import Crew, Member
from tests.chaos.services import Services, StoreName
from tests.command_line import CommandLine

if TYPE_CHECKING:
    from tasks.client import Client

KB = "storms"
DOCUMENTS = 200
_FOREIGN = ("CELERIAC_", "OPENAI_", "WEAVIATE_", "REDIS_URL", "DATABASE_URL", "ASK_")
_READY_WITHIN = 120.0


class Installation:
    """Everything that runs; the workers are started once and must live."""

    def __init__(
        self, services: Services, folder: Path, *, crew: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        """Migrate, start the workers, ingest the corpus. Raises AssertionError where that fails."""
        self.services = services
        self.environment = {**services.environment("storms"), **environment, "CELERIAC_HOME": str(folder)}
        _adopt(self.environment)
        self.parts = Parts(settings_of.load())
        self.manage = CommandLine(self.environment)
        self.parts.schema.migrate()
        self._crew = Crew(crew, logs=folder / "logs", environment=self.environment)
        self._crew.tend()
        wait_until(lambda: self._crew.are_ready(), _READY_WITHIN, "the workers are not ready")
        self.client = self._made_client()

    def ingest(self, folder: Path, documents: int = DOCUMENTS, *, kb: str = KB) -> None:
        """Documents that each name a unit of their own."""
        outcome = self.manage("ingest", str(write_corpus(folder, documents)), "--kb", kb, "--json", timeout=300)
        assert outcome.status == 0, outcome.err or outcome.out

    def spare(self, *kinds: str) -> None:
        """End the workers of these kinds: they have nothing more to do."""
        for member in [member for member in self._crew.members.values() if member.kind in kinds]:
            member.end()
            del self._crew.members[member.name]

    @property
    def askers(self) -> list[Member]:
        """The workers that answer."""
        return [member for member in self._crew.members.values() if member.kind == "ask"]

    @property
    def workers(self) -> list[Member]:
        """All of them."""
        return list(self._crew.members.values())

    @property
    def dead(self) -> list[str]:
        """Names of workers that run no more."""
        return [name for name, member in self._crew.members.items() if not member.running]

    def celery(self) -> Any:
        """The app, in this process."""
        from tasks.app import app

        return app

    def log(self) -> str:
        """All that the workers wrote."""
        return self._crew.log()

    def stop(self) -> None:
        """End the workers and the connections of this process."""
        self._crew.stop()
        self.parts.close()

    def _made_client(self) -> Client:
        _ = self.parts.redis
        from tasks import runtime

        runtime.use(self.parts)
        from tasks.client import Client

        return Client(self.parts)


@contextmanager
def installation(
    folder: Path, store: StoreName, *, crew: Sequence[str], environment: Mapping[str, str]
) -> Iterator[Installation]:
    """One on servers of its own, stopped at the end."""
    folder.chmod(0o711)  # Postgres does not run as root
    services = Services(folder, store)
    try:
        (folder / "home").mkdir()
        made = Installation(services, folder / "home", crew=crew, environment=environment)
        try:
            yield made
        finally:
            made.stop()
    finally:
        services.stop()


def write_corpus(folder: Path, documents: int, *, first: int = 0) -> Path:
    """JSON lines of so many documents, each about a unit of its own, from number ``first`` on."""
    path = folder / f"corpus-{first}.jsonl"
    with path.open("w") as lines:
        for number in range(first, first + documents):
            text = (
                f"Part {number} of the plant is called unit{number}. Unit{number} runs at {number * 7 % 1000} degrees "
                f"and is checked every {number % 29 + 1} days by team{number % 13}."
            )
            lines.write(json.dumps({"id": f"unit{number}", "title": f"Unit {number}", "text": text}) + "\n")
    return path


def question_about(number: int) -> str:
    """A question that the corpus answers, another one for each number."""
    return f"How often is unit{number % DOCUMENTS} checked, and by which team, as of round {number // DOCUMENTS}?"


def wait_until(condition: Callable[[], bool], seconds: float, complaint: str) -> None:
    """Raises AssertionError with ``complaint`` where it does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{complaint} after {seconds:g} s"
        time.sleep(0.05)


def _adopt(environment: Mapping[str, str]) -> None:
    """Make this process a client of that installation and of no other."""
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        del os.environ[name]
    os.environ.update({name: value for name, value in environment.items() if not name.endswith("_CONCURRENCY")})
    logs.configure("console", "ERROR")
