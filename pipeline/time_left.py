"""How much time there is for what is done here, for parts that nobody tells: a statement in Postgres, and the wait for
a connection, take no longer than the question that needs them has.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# By the monotonic clock. Each thread or greenlet has a context of its own.
_end: ContextVar[float] = ContextVar("end", default=math.inf)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is done inside, by this thread or greenlet, has so many seconds, or fewer where it is in a narrower limit
    already.
    """
    token = _end.set(min(_end.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _end.reset(token)


def time_left() -> float:
    """Seconds, infinitely many where nobody set a limit; below 0 where the time is over."""
    return _end.get() - time.monotonic()
