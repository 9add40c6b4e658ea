"""Questions at a steady rate, whether or not the earlier ones are answered (an open loop)."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from pipeline.adapters.redis_stream import AnswerStreams
from pipeline.errors import CeleriacError
from tests.benchmarks.reader import Reader, Reading
from tests.storms.installation import KB, question_about

if TYPE_CHECKING:
    from tasks.client import Client

TIMEOUT = 60.0
_REPEATED = 0.2
_REPERTOIRE = 200


class Crowd:
    """Asks by number and counts what becomes of each: ``waits`` in seconds, ``outcomes`` by what they are."""

    def __init__(self, client: Client, streams: AnswerStreams) -> None:
        """Nobody asks yet."""
        self._client = client
        self._reader = Reader(streams, self._ended)
        self._free = threading.Semaphore(0)
        self.waits: list[float] = []
        self.outcomes: Counter[str] = Counter()

    def __enter__(self) -> Crowd:
        self._reader.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for all answers."""
        self._reader.__exit__()

    def ask(self, number: int) -> None:
        """Ask, and go on."""
        begun = time.perf_counter()
        try:
            question = self._client.question(question_about(number), kb=KB, timeout=TIMEOUT)
            self._client.submit(question)
        except CeleriacError as error:
            self._count(begun, error.code)
        else:
            self._reader.add(question, begun)

    def wait_for_one(self) -> None:
        """Until one more is over."""
        self._free.acquire()

    def _ended(self, one: Reading, is_lost: bool) -> None:
        self._count(one.begun, "lost" if is_lost else self._outcome(one))

    def _count(self, begun: float, outcome: str) -> None:
        self.waits.append(time.perf_counter() - begun)
        self.outcomes[outcome] += 1
        self._free.release()

    def _outcome(self, one: Reading) -> str:
        try:
            answer = self._client.result(one.question.id)
        except CeleriacError as error:
            return error.code
        if answer is None or one.first is None:
            return "no answer"
        modes = sorted({loss.mode for loss in answer.degraded})
        return "+".join(modes) or ("full" if answer.mode == "generated" else answer.mode)


class Load:
    """Asks ``per_second`` questions at random moments (a Poisson process); one in five was asked before."""

    def __init__(self, client: Client, streams: AnswerStreams, per_second: float, seconds: float) -> None:
        """Ask nothing yet."""
        self._per_second = per_second
        self._seconds = seconds
        self._dice = random.Random(1)
        self._crowd = Crowd(client, streams)
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def begin(self) -> None:
        """Ask."""
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether the time is over and all are answered."""
        return not self._thread.is_alive()

    @property
    def waits(self) -> list[float]:
        """Seconds, of each question that is over."""
        return self._crowd.waits

    @property
    def outcomes(self) -> Counter[str]:
        """What became of them."""
        return self._crowd.outcomes

    def ended(self) -> int:
        """How many questions are over."""
        return len(self.waits)

    def _ask(self) -> None:
        begun, at, number = time.monotonic(), 0.0, 0
        with self._crowd as crowd:
            while (at := at + self._dice.expovariate(self._per_second)) < self._seconds:
                time.sleep(max(0.0, begun + at - time.monotonic()))
                repeated = number > _REPERTOIRE and self._dice.random() < _REPEATED
                crowd.ask(self._dice.randrange(_REPERTOIRE) if repeated else number)
                number += not repeated


def capacity(client: Client, streams: AnswerStreams, *, concurrency: int, seconds: float, first: int) -> float:
    """Full answers a second with so many questions at once, each followed by the next one."""
    begun, number = time.monotonic(), first
    with Crowd(client, streams) as crowd:
        for _ in range(concurrency):
            crowd.ask(number)
            number += 1
        while time.monotonic() - begun < seconds:
            crowd.wait_for_one()
            crowd.ask(number)
            number += 1
    return crowd.outcomes["full"] / (time.monotonic() - begun)
