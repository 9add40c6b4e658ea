"""Reads the answers to many questions as they are written, over one connection and in one thread.

A thread for each question would cost several times the processor time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.adapters.redis_stream import AnswerStreams
from pipeline.types import AnswerEvent, Question

# How long the reader waits for new entries: a question that was added meanwhile joins after that.
_BLOCK = 0.05
# Between two looks: what came meanwhile comes at once. A reader of few questions looks more often.
_PAUSE_EACH = 0.0005
_PAUSE_AT_MOST = 0.04
# After its deadline a question counts as lost.
_GRACE = 15.0


@dataclass
class Reading:
    """A question under way: when it began, and after how many seconds the first piece of its answer was there."""

    question: Question
    begun: float
    first: float | None = None
    position: str = "0"


class Reader:
    """Calls ``ended`` in its own thread for each question that is over, or that is not over long after its time
    (``is_lost``).
    """

    def __init__(self, streams: AnswerStreams, ended: Callable[[Reading, bool], None]) -> None:
        """Nothing to read yet."""
        self._streams = streams
        self._ended = ended
        self._open: dict[str, Reading] = {}
        self._all_added = threading.Event()
        self._thread = threading.Thread(target=self._read_all, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Read to the end of all."""
        self._all_added.set()
        self._thread.join()

    def add(self, question: Question, begun: float) -> None:
        """Read this one, too; ``begun`` on the clock of time.perf_counter."""
        self._open[question.id] = Reading(question, begun)

    def _read_all(self) -> None:
        while not (self._all_added.is_set() and not self._open):
            under_way = dict(self._open)
            if not under_way:
                time.sleep(_PAUSE_AT_MOST)
                continue
            positions = {name: one.position for name, one in under_way.items()}
            for name, events in self._streams.read_many(positions, block=_BLOCK).items():
                if _is_over(under_way[name], events):
                    self._end(name, is_lost=False)
            for name, one in under_way.items():
                if time.time() > one.question.deadline + _GRACE and name in self._open:
                    self._end(name, is_lost=True)
            time.sleep(min(_PAUSE_AT_MOST, _PAUSE_EACH * len(under_way)))

    def _end(self, name: str, *, is_lost: bool) -> None:
        self._ended(self._open.pop(name), is_lost)


def _is_over(one: Reading, events: list[AnswerEvent]) -> bool:
    if one.first is None and any(event.kind == "text" for event in events):
        one.first = time.perf_counter() - one.begun
    one.position = events[-1].position
    return any(event.kind in ("done", "error") for event in events)
