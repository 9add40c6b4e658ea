"""Celeriac's client under load: asks many questions at once and reads every answer as it is written.

One thread submits, another one reads (:mod:`tests.benchmarks.reader`); what both take counts as Celeriac's.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from pipeline import settings
from pipeline.errors import CeleriacError
from pipeline.wiring import Parts
from tests.benchmarks.jobs import Job, Tally, serve
from tests.benchmarks.questions import KB, question
from tests.benchmarks.reader import Reader, Reading

if TYPE_CHECKING:
    from tasks.client import Client


class Asker:
    """Asks the questions of one job."""

    def __init__(self, parts: Parts, client: Client, job: Job) -> None:
        self._parts = parts
        self._client = client
        self._job = job
        self._tally = Tally()
        self._free = threading.Semaphore(job.in_flight)

    def run(self) -> Tally:
        """Return when every question has come to an end."""
        with Reader(self._parts.streams, self._ended) as reader:
            for number in range(self._job.first, self._job.first + self._job.questions):
                self._free.acquire()
                self._submit(number, reader)
        return self._tally

    def _submit(self, number: int, reader: Reader) -> None:
        begun = time.perf_counter()
        try:
            asked = self._client.question(question(number, self._job.documents), kb=KB)
            self._client.submit(asked)
        except CeleriacError as error:
            self._tally.failed(error)
            self._free.release()
        else:
            reader.add(asked, begun)

    def _ended(self, one: Reading, is_lost: bool) -> None:
        if is_lost:
            self._tally.failed("lost")
        else:
            self._count(one)
        self._free.release()

    def _count(self, one: Reading) -> None:
        try:
            answer = self._client.result(one.question.id)
        except CeleriacError as error:
            self._tally.failed(error)
            return
        if answer is None or one.first is None:
            self._tally.failed("ended without an answer")
        elif answer.degraded:
            self._tally.failed(f"degraded: {answer.degraded[0].mode}")
        elif answer.mode != "generated":
            self._tally.failed(answer.outcome)
        else:
            inside = sum(timing.queue_ms + timing.run_ms for timing in answer.timings) / 1000
            self._tally.answered(one.first, time.perf_counter() - one.begun, inside)


def main() -> None:
    """Serve jobs."""
    parts = Parts(settings.load())
    from tasks import runtime
    from tasks.client import Client

    runtime.use(parts)
    serve(lambda job: Asker(parts, Client(parts), job).run())


if __name__ == "__main__":
    main()
