"""One load of questions, put to Celeriac or to its twin, and what it took."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.jobs import Job, Program
from tests.benchmarks.processes import Usage, Watch
from tests.benchmarks.questions import KB, Upstream, write_documents
from tests.benchmarks.runs import Failed, say
from tests.benchmarks.servers import MeasuredStack, measured_stack, standin

CELERIAC = ("ask", "ingest", "parse", "parse child", "control", "control child", "beat", "supervisor", "redis")
"""Kinds of processes whose time is Celeriac's, with that of the client; not that of the services that it shares."""
WARM_UP = 100

Report = dict[str, Any]


class Bench:
    """A stack with documents, Celeriac's client, and the twin on the same servers."""

    def __init__(self, stack: MeasuredStack, standin_pid: int, upstream: Upstream, documents: int, limit: float):
        """The documents are ingested already."""
        self._stack = stack
        self._trees = {**stack.trees, "standin": standin_pid}
        self._upstream = upstream
        self._documents = documents
        self._limit = limit
        self._asked = 0
        environment = {**stack.environment, **stack.urls}
        self._celeriac = Program("tests.benchmarks.asker", environment)
        self._twin = Program("tests.benchmarks.ask_twin", environment)

    def close(self) -> None:
        """End both programs."""
        self._celeriac.stop()
        self._twin.stop()

    def warm_up(self) -> None:
        """Let every process load what it needs."""
        for program in (self._celeriac, self._twin):
            program.run(self._job(WARM_UP, WARM_UP), self._limit)

    def celeriac(self, questions: int, in_flight: int) -> Report:
        """Ask Celeriac."""
        with Watch(self._trees | {"client": self._celeriac.pid}, self._stack.urls["REDIS_URL"]) as watch:
            sampled, store_cpu = self._stack.sampled(), self._stack.store_cpu()
            outcome = self._celeriac.run(self._job(questions, in_flight), self._limit)
            used = watch.usage(client=outcome["cpu"])
            sampled, store_cpu = self._stack.sampled() - sampled, self._stack.store_cpu() - store_cpu
        own = sum(used.cpu.get(kind, 0.0) for kind in (*CELERIAC, "client"))
        found = self._report(outcome, used, own, store_cpu, in_flight)
        say(_said("celeriac", found))
        return found | {"work": _by_work(sampled, used.cpu.get("ask", 0.0), found["answered"])}

    def cached(self, questions: int) -> Report:
        """Ask Celeriac, one at a time, what it has just been asked; the answers must come from a cache."""
        again = self._asked
        self.celeriac(questions, questions)
        self._asked = again
        return self.celeriac(questions, 1)

    def twin(self, questions: int, in_flight: int) -> Report:
        """Ask the twin."""
        with Watch(self._trees | {"twin": self._twin.pid}, self._stack.urls["REDIS_URL"]) as watch:
            store_cpu = self._stack.store_cpu()
            outcome = self._twin.run(self._job(questions, in_flight), self._limit)
            used = watch.usage(twin=outcome["cpu"])
            store_cpu = self._stack.store_cpu() - store_cpu
        found = self._report(outcome, used, outcome["cpu"], store_cpu, in_flight)
        say(_said("its twin", found))
        return found

    def _job(self, questions: int, in_flight: int) -> Job:
        self._asked += questions
        return Job(questions, in_flight, self._asked - questions, self._documents)

    def _report(self, outcome: Report, used: Usage, own: float, store_cpu: float, in_flight: int) -> Report:
        answered = len(outcome["whole"])
        if not answered:
            raise Failed(f"No question was answered: {outcome['errors']}")
        each = 1000 / answered
        postgres = used.cpu["postgres"] + used.cpu["postgres child"]
        return {
            "in_flight": in_flight,
            "answered": answered,
            "errors": outcome["errors"],
            "seconds": round(outcome["seconds"], 2),
            "per_second": round(answered / outcome["seconds"], 1),
            "cpu_ms": round(own * each, 2),
            "cpu_ms_by_process": {kind: round(cpu * each, 2) for kind, cpu in used.cpu.items() if cpu * each >= 0.005},
            "postgres_ms": {"store": round(store_cpu * each, 2), "rest": round((postgres - store_cpu) * each, 2)},
            "first_ms": _quantiles(outcome["first"]),
            "above_upstream_ms": _quantiles([first - self._upstream.before_first for first in outcome["first"]]),
            "whole_ms": _quantiles(outcome["whole"]),
            "inside_ms": _quantiles(outcome["inside"]),
            "peak_mb": used.peak_mb,
            "redis_mb": used.redis_mb,
            "busy": used.busy,
            "others": used.others,
        }


@contextlib.contextmanager
def bench(store: str, workers: int, upstream: Upstream, documents: int, limit: float, folder: Path) -> Iterator[Bench]:
    """Everything that questions need, warm."""
    with standin() as service:
        environment = {"OPENAI_BASE_URL": service.url, "OPENAI_API_KEY": "stand-in"}
        with measured_stack(store, workers, environment) as stack:
            file = write_documents(folder / "documents.jsonl", documents)
            outcome = stack.manage("ingest", str(file), "--kb", KB, "--json", timeout=limit)
            if outcome.status or outcome.json["failed"]:
                raise Failed((outcome.err or outcome.out).strip()[-500:])
            service.configure(**upstream.config)
            found = Bench(stack, service.pid, upstream, documents, limit)
            try:
                found.warm_up()
                yield found
            finally:
                found.close()


def _by_work(sampled: Counter[str], in_workers: float, answered: int) -> Report:
    """Processor ms of the workers for a question: by the work they did, by library, and by both."""
    scale = in_workers * 1000 / answered / (sum(sampled.values()) or 1.0)
    both: Counter[str] = Counter({name: seconds * scale for name, seconds in sampled.items()})
    work: Counter[str] = Counter()
    library: Counter[str] = Counter()
    for name, ms in both.items():
        for_whom, _, where = name.partition("|")
        work[for_whom] += ms
        library[where] += ms
    return {"by_work": _rounded(work), "by_library": _rounded(library), "by_both": _rounded(both)}


def _rounded(ms: Counter[str]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in ms.most_common() if value >= 0.005}


def _quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    shares = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    return {name: round(ordered[round((len(ordered) - 1) * share)] * 1000, 1) for name, share in shares.items()}


def _said(who: str, found: Report) -> str:
    errors = f", errors {found['errors']}" if found["errors"] else ""
    return (
        f"   {who}: {found['answered']:,} answers, {found['in_flight']} in flight: {found['per_second']}/s, "
        f"{found['cpu_ms']} ms CPU each, whole p95 {found['whole_ms']['p95']:.0f} ms, "
        f"others {found['others']:.0%}{errors}"
    )
