"""The attempts at the stages of a question as bars on one axis of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from pipeline.types import StageTiming

WAITING, RUNNING = "░", "█"
WIDTH = 48
"""Of the axis, where no terminal says how much room there is."""


@dataclass(frozen=True)
class Bar:
    """One attempt; ``start_ms`` is when it began to wait for a worker, after the question was submitted."""

    timing: StageTiming
    start_ms: float

    @property
    def end_ms(self) -> float:
        """When it was over."""
        return self.start_ms + self.timing.queue_ms + self.timing.run_ms


def bars(timings: Sequence[StageTiming], first_ms: float = 0.0) -> list[Bar]:
    """The attempts one after the other, the first one from ``first_ms`` on."""
    spent = (timing.queue_ms + timing.run_ms for timing in timings)
    return [Bar(timing, start) for timing, start in zip(timings, accumulate(spent, initial=first_ms), strict=False)]


def drawn(bar: Bar, total_ms: float, width: int = WIDTH) -> str:
    """A bar on an axis of ``width`` characters that stand for ``total_ms``; what ran has one character at least."""
    scale = width / total_ms if total_ms > 0 else 0.0
    ran_from = bar.start_ms + bar.timing.queue_ms
    first, middle, last = (min(width, round(moment * scale)) for moment in (bar.start_ms, ran_from, bar.end_ms))
    if last == middle:
        middle = min(middle, width - 1)
        last = middle + 1
    first = min(first, middle)
    return f"{' ' * first}{WAITING * (middle - first)}{RUNNING * (last - middle)}"
