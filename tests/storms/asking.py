"""Who asks: many questions, so many of them at once, from one process; and what became of each of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import CeleriacError
from pipeline.types import Answer
from tests.storms.installation import KB, question_about

if TYPE_CHECKING:
    from tasks.client import Client

_AGAIN_AFTER = 0.25


@dataclass
class Asked:
    """One question as its owner saw it. ``refused`` counts how often it was not taken; who asks then asks again, with
    what is left of the time.
    """

    number: int
    id: str = ""
    seconds: float = 0.0
    refused: int = 0
    answer: Answer | None = None
    streamed: str = ""
    error: str = ""
    message: str = ""

    @property
    def modes(self) -> list[str]:
        """What it had to do without."""
        return sorted({loss.mode for loss in self.answer.degraded}) if self.answer else []

    @property
    def is_full(self) -> bool:
        """Answered by the model, from everything."""
        return self.answer is not None and not self.answer.degraded and self.answer.mode == "generated"

    @property
    def is_denied(self) -> bool:
        """Told that the knowledge base has no answer, which it has."""
        return self.answer is not None and self.answer.outcome == "not_in_knowledge_base"


class Crowd:
    """``questions`` questions, ``concurrency`` of them at once."""

    def __init__(self, client: Client, *, first: int, questions: int, concurrency: int, timeout: float) -> None:
        """Ask nothing yet; the first question has the number ``first``."""
        self._client = client
        self._timeout = timeout
        self._numbers = range(first, first + questions)
        self._pool = ThreadPoolExecutor(concurrency)
        self._futures: list[Future[Asked]] = []
        self._ended = 0
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Ask."""
        self._futures = [self._pool.submit(self._one, number) for number in self._numbers]

    @property
    def share(self) -> float:
        """Of the questions that are over, whichever way."""
        return self._ended / len(self._numbers)

    @property
    def over(self) -> bool:
        """Whether all are."""
        return all(future.done() for future in self._futures)

    def asked(self) -> list[Asked]:
        """What became of each; waits for all."""
        found = [future.result() for future in self._futures]
        self._pool.shutdown()
        return found

    def _one(self, number: int) -> Asked:
        asked = ask(self._client, number, self._timeout)
        with self._lock:
            self._ended += 1
        return asked


def ask(client: Client, number: int, timeout: float) -> Asked:
    """Ask one question and read along to its end."""
    asked, begun = Asked(number), time.monotonic()
    question = _submitted(client, asked, begun + timeout)
    if question is not None:
        try:
            asked.streamed = "".join(_read(client, question))
            asked.answer = client.result(asked.id)
            if asked.answer is None:
                asked.error, asked.message = "NoAnswer", "The stream ended, and there was no answer."
        except CeleriacError as error:
            asked.error, asked.message = error.code, error.message
        except Exception as error:
            asked.error, asked.message = "Foreign", f"{type(error).__name__}: {error}"
    asked.seconds = time.monotonic() - begun
    return asked


def _submitted(client: Client, asked: Asked, end: float) -> Any:
    """Hand it over; where nobody takes it, again, as long as there is time."""
    while True:
        left = end - time.monotonic()
        question = client.question(question_about(asked.number), kb=KB, timeout=max(0.1, left))
        try:
            asked.id = client.submit(question)
            return question
        except CeleriacError as error:
            asked.refused += 1
            if not error.retryable or time.monotonic() + _AGAIN_AFTER >= end:
                asked.error, asked.message = error.code, error.message
                return None
        time.sleep(_AGAIN_AFTER)


def _read(client: Client, question: Any) -> Iterator[str]:
    """What the last writer wrote."""
    pieces: list[str] = []
    for event in client.follow(question):
        if event.kind == "begin":
            pieces.clear()
        elif event.kind == "text":
            pieces.append(event.value)
    yield from pieces
