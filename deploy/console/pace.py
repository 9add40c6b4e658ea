"""How fast a run goes and how long it will take, from counts seen at moments. Times are seconds of one clock."""

from __future__ import annotations

from collections import deque

WINDOW = 30.0
"""A rate is that of the newest so many seconds."""
SETTLED = 2.0
"""Before that long a rate would be a guess."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 1.0


class Pace:
    """Documents per second over a sliding window.

    Batches end in steps. The window always holds the newest step, so that between two of them the rate falls slowly
    instead of to nothing.
    """

    def __init__(self, window: float = WINDOW) -> None:
        """Nothing is seen yet."""
        self._window = window
        # When each count was seen first; the newest count of all is the last one.
        self._steps: deque[tuple[float, int]] = deque()
        self._now = 0.0

    def saw(self, at: float, over: int) -> None:
        """At that moment so many were over."""
        self._now = at
        if not self._steps or over != self._steps[-1][1]:
            self._steps.append((at, over))
        while len(self._steps) > 2 and self._steps[1][0] <= at - self._window:
            self._steps.popleft()

    @property
    def rate(self) -> float | None:
        """Documents per second; None while too little was seen to say."""
        if len(self._steps) < 2:
            return None
        (begun, before), (_, after) = self._steps[0], self._steps[-1]
        spent = self._now - begun
        return max(0, after - before) / spent if spent >= SETTLED else None


def time_left(waiting: int, rate: float | None) -> float | None:
    """Seconds until ``waiting`` documents are over at that rate; None: unknown."""
    return waiting / rate if rate else None


def pause(elapsed: float) -> float:
    """How long to wait before the next look at a run that was watched for ``elapsed`` seconds."""
    return min(LONGEST_PAUSE, max(FIRST_PAUSE, elapsed / 40))


def duration(seconds: float) -> str:
    """A time as people say it: ``8 s``, ``2 min 05 s``, ``3 h 12 min``, ``2 d 4 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
