"""One seed: a run under chaos from its manifest to its end, and what became of its documents."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from pipeline.settings import Settings
from pipeline.wiring import Parts
from tests.chaos import audit
from tests.chaos.corpus import Corpus
from tests.chaos.crew import Crew
from tests.chaos.monkey import Monkey
from tests.chaos.services import Services
from tests.command_line import CommandLine

LEASE = 2
CREW = ("ingest", "ingest", "parse", "parse", "control", "beat")
_READY_WITHIN = 180.0
_FIRST_RUN_WITHIN = 120.0
_SETTLES_WITHIN = 30.0
_TICK = 0.05
_LOOK_EVERY = 0.2
_LATENCY = (0.3, 3.0)
_REDELIVERED = re.compile(r"delivered again|sent again")


@dataclass(frozen=True)
class Demands:
    """What a trial is to be. Embedding is made so slow that the run takes ``least_seconds`` or more, be the machine
    as quick as it may; after ``chaos_seconds`` and ``least_kills`` nothing is killed any more, after ``run_seconds``
    the run is stuck.
    """

    documents: int
    least_kills: int
    least_seconds: float
    chaos_seconds: float
    run_seconds: float


@dataclass
class Report:
    """A row of the table; ``findings`` is empty where all went well."""

    seed: int
    kills: dict[str, int] = field(default_factory=dict)
    freezes: int = 0
    redis_end: str = ""
    seconds: float = 0.0
    redeliveries: int = 0
    embedded_texts: int = 0
    distinct_texts: int = 0
    settings: dict[str, str] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON."""
        return asdict(self)


class Trial:
    """An installation of its own on ``services``, in ``folder``."""

    def __init__(self, seed: int, services: Services, folder: Path, demands: Demands) -> None:
        """Draw the settings and make up the documents; start nothing yet."""
        self._dice = random.Random(seed)
        self._services = services
        self._demands = demands
        self._folder = folder
        folder.mkdir(mode=0o711)
        self.report = Report(seed, settings=self._drawn_settings())
        self._environment = {
            **services.environment(f"chaos_{seed}"),
            **self.report.settings,
            "CELERIAC_HOME": str(folder),
            "CELERIAC_HEARTBEAT_TTL": str(LEASE),
            "CELERIAC_SWEEP_EVERY": "1",
            "INGEST_CONCURRENCY": "10",
            "PARSE_CONCURRENCY": "2",
        }
        self._corpus = Corpus(folder / "docs", demands.documents, seed)
        self._manage = CommandLine(self._environment)
        self._parts = Parts(_settings(self._environment))
        self._crew = Crew(CREW, logs=folder / "logs", environment=self._environment)

    def run(self) -> Report:
        """The whole trial; everything of its own is stopped at its end, and its folder stays where it failed."""
        try:
            self._run()
        except AssertionError as error:
            self.report.findings.append(str(error))
        except Exception as error:
            self.report.findings.append(f"{type(error).__name__}: {error}")
        finally:
            self._crew.stop()
            self._parts.close()
        if not self.report.findings:
            shutil.rmtree(self._folder)
        return self.report

    def _run(self) -> None:
        self._parts.schema.migrate()
        self._services.standin.reset()
        self._tend_until(self._crew.are_ready, _READY_WITHIN, "the workers are not ready")
        self._live_before()
        run_id, seconds = self._under_chaos()
        self.report.seconds = round(seconds, 1)
        self._tend_until(
            lambda: not audit.in_motion(self._services.redis_url, self._namespace),
            _SETTLES_WITHIN,
            "messages are left",
            lambda: str(audit.in_motion(self._services.redis_url, self._namespace)),
        )
        # Nobody is looked after while the audit waits for what the sweep does.
        self._tend_until(self._crew.are_running, _READY_WITHIN, "a worker does not come back")
        self.report.findings += audit.findings(self._parts, run_id, self._corpus)
        self.report.findings += audit.left_in_redis(self._services.redis_url, self._namespace)
        self._count()

    def _live_before(self) -> None:
        """A first generation of some documents, without any chaos."""
        self._corpus.write_first()
        run_id = self._ingest()
        self._tend_until(lambda: self._status(run_id) == "done", _FIRST_RUN_WITHIN, "the first run does not end")

    def _under_chaos(self) -> tuple[str, float]:
        """The second run: its id and how long it took."""
        self._services.standin.configure(embedding_latency=self._latency())
        self._corpus.write_all()
        run_id = self._ingest()
        monkey = Monkey(self._dice, self._crew, self._services, lease=LEASE)
        self.report.redis_end = monkey.redis_end
        begun = time.monotonic()
        try:
            self._endure(run_id, monkey, begun)
        finally:
            monkey.rest()
            self.report.kills, self.report.freezes = dict(monkey.kills), monkey.freezes
        if not monkey.has_restarted_both or monkey.kills.total() < self._demands.least_kills:
            self.report.findings.append("the run was over before enough had gone wrong: ingest more documents")
        return run_id, time.monotonic() - begun

    def _endure(self, run_id: str, monkey: Monkey, begun: float) -> None:
        watch = _Watch(self._parts.database_url, run_id)
        while (status := watch.status()) in ("", "discovering", "running"):
            spent = time.monotonic() - begun
            if spent > self._demands.run_seconds:
                raise AssertionError(f"the run is not over after {spent:.0f} s: {watch.share:.0%} of it is")
            self._crew.tend()
            is_time = spent < self._demands.chaos_seconds or monkey.kills.total() < self._demands.least_kills
            monkey.act(watch.share, kills=is_time)
            time.sleep(_TICK)
        if status != "done":
            raise AssertionError(f"the run ended {status}: {self._parts.runs.find(run_id).error}")

    def _ingest(self) -> str:
        outcome = self._manage("ingest", *self._corpus.paths, "--kb", audit.KB, "--detach", "--json")
        return str(outcome.json["run"])

    def _tend_until(
        self, condition: Callable[[], bool], seconds: float, complaint: str, detail: Callable[[], str] = str
    ) -> None:
        end = time.monotonic() + seconds
        while not condition():
            self._crew.tend()
            if time.monotonic() > end:
                raise AssertionError(f"{complaint} after {seconds:g} s {detail()}")
            time.sleep(_LOOK_EVERY)

    def _status(self, run_id: str) -> str:
        return self._parts.runs.find(run_id).status

    def _count(self) -> None:
        self.report.redeliveries = len(_REDELIVERED.findall(self._crew.log()))
        self.report.embedded_texts = self._services.standin.counters()["texts"]
        self.report.distinct_texts = audit.distinct_texts(self._parts)

    def _latency(self) -> float:
        """Seconds of an embedding call: so many batches side by side, one call after the other."""
        batches = self._demands.documents / self._parts.settings.batch_documents
        at_once = self._parts.settings.wave_batches * self._parts.settings.waves_at_once
        return max(_LATENCY[0], min(self._demands.least_seconds * at_once / batches, _LATENCY[1]))

    @property
    def _namespace(self) -> str:
        return self._parts.settings.namespace

    def _drawn_settings(self) -> dict[str, str]:
        """Sizes of batches and waves, so that seeds differ in more than in their moments."""
        wave_batches, waves_at_once = self._dice.choice(((4, 1), (2, 2), (2, 4), (4, 2), (8, 1)))
        return {
            "CELERIAC_BATCH_DOCUMENTS": str(self._demands.documents // self._dice.choice((30, 60, 100))),
            "CELERIAC_WAVE_BATCHES": str(wave_batches),
            "CELERIAC_WAVES_AT_ONCE": str(waves_at_once),
            "CELERIAC_CHUNK_TOKENS": str(self._dice.choice((80, 150, 300))),
        }


class _Watch:
    """Looks at a run now and then, also while Postgres is down."""

    def __init__(self, database_url: str, run_id: str) -> None:
        self._url, self._run_id = database_url, run_id
        self._looked_at, self._status = 0.0, ""
        self.share = 0.0

    def status(self) -> str:
        """What it was a moment ago."""
        if time.monotonic() - self._looked_at >= _LOOK_EVERY:
            self._look()
            self._looked_at = time.monotonic()
        return self._status

    def _look(self) -> None:
        query = (
            "SELECT (SELECT status FROM runs WHERE id = %(run)s), count(*) FILTER (WHERE status <> 'queued'), count(*) "
            "FROM run_items WHERE run_id = %(run)s"
        )
        try:
            with psycopg.connect(self._url, connect_timeout=2) as connection:
                row = connection.execute(query, {"run": self._run_id}).fetchone()
        except psycopg.OperationalError:
            return
        assert row is not None
        self._status, self.share = row[0], row[1] / max(row[2], 1)


def _settings(environment: Mapping[str, str]) -> Settings:
    """Settings of this process from an installation's variables; nothing is taken from its own."""
    given: dict[str, Any] = {
        name.removeprefix("CELERIAC_").lower() if name.startswith("CELERIAC_") else name: value
        for name, value in environment.items()
        if not name.endswith("_CONCURRENCY")
    }
    return Settings(**given)
