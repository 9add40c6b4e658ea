"""How long a model may keep a question waiting before it is asked again.

A fixed limit must be longer than a model ever thinks, so that a call which hangs costs its question all of that time.
Here each process notes how long the calls of a model kept it waiting lately, and gives up a first attempt after twice
what all but a few of them took. This is the hedged request of Dean and Barroso ("The Tail at Scale", CACM 56(2), 2013),
one after the other instead of side by side, since every call of a model is paid for.

A service that has become slow must not be asked everything twice. So giving up is throttled as gRPC throttles retries
(gRFC A6): one call for ten that succeeded. And a second attempt has the whole limit: by these a slower service becomes
known, and a question over which a model thinks for long is answered all the same. To be given up early is no sign of an
outage either: the circuit breaker counts only what lasted for the whole limit, and waits so long for its probe.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TypeVar

_Piece = TypeVar("_Piece")

WINDOW = 256
"""Calls that are remembered; of these the longest waits but ``OUTLIERS`` count, about their 99th percentile."""
OUTLIERS = 2
ENOUGH = 16
"""Calls before which nothing is known; after as many more it is reckoned anew, and when one had to wait for long."""
MARGIN = 2.0
EARNED = 0.1
"""Calls that may be given up for each that succeeded."""
MOST_EARNED = 10.0
LOOK_EVERY = 0.25
"""Seconds between looks at a call of which it can't be said when it will be overdue."""
_KEYS = 64

_until: ContextVar[float | None] = ContextVar("until", default=None)


@contextmanager
def hurrying(seconds: float | None) -> Iterator[None]:
    """Calls made inside, by this thread or greenlet, may be given up early: whoever makes them would try again, and has
    so many ``seconds`` from now for all attempts. None: there is no other attempt.
    """
    token = _until.set(None if seconds is None else time.monotonic() + seconds)
    try:
        yield
    finally:
        _until.reset(token)


def have_patience() -> None:
    """From here on calls are not given up early, to the end of the innermost :func:`hurrying`. It needs no end of its
    own, so that it may be said where that would come late, as in a generator.
    """
    _until.set(None)


class Silences:
    """What this process knows of the models it calls."""

    def __init__(self, limit: float = math.inf, least: float = 0.0) -> None:
        """No call waits for longer than ``limit`` seconds at a time, and none is given up in less than ``least``."""
        self._of = lru_cache(maxsize=_KEYS)(lambda _key: Silence(limit, least))

    def waiting(self, *key: object) -> Waiting:
        """For one call of a model, which ``key`` names, with all that makes it think longer."""
        return Waiting(self._of(key))


class Silence:
    """How long the calls of one model kept this process waiting."""

    def __init__(self, limit: float = math.inf, least: float = 0.0) -> None:
        """As for :class:`Silences`."""
        self.limit = limit
        self._least = least
        self._learned = limit
        self._seen: deque[float] = deque(maxlen=WINDOW)
        self._count = 0
        self._earned = 0.0

    def bound(self) -> float:
        """Seconds after which a call that begins now may be given up early."""
        return self.limit if _until.get() is None else self._learned

    def heard(self, seconds: float) -> None:
        """A call that succeeded was kept waiting for ``seconds``, the longest time of it."""
        self._seen.append(seconds)
        self._count += 1
        self._earned = min(MOST_EARNED, self._earned + EARNED)
        if self._count >= ENOUGH and (self._count % ENOUGH == 0 or seconds * MARGIN > self._learned):
            usual = heapq.nlargest(OUTLIERS + 1, list(self._seen))[-1]
            self._learned = min(self.limit, max(self._least, MARGIN * usual))

    def spend(self) -> bool:
        """Give up a call, if that may be."""
        if self._earned < 1:
            return False
        self._earned -= 1
        return True


class Waiting:
    """One call under way: how long it may be silent, and how long it was. Another thread may look at it."""

    def __init__(self, silence: Silence | None = None) -> None:
        """Its bound is set here; without a ``silence`` there is none."""
        self._silence = silence or Silence()
        self.limit = self._silence.limit
        """Seconds at a time for which it may wait at the most."""
        self.bound = self._silence.bound()
        """Seconds after which it may be given up early."""
        self.given_up = False
        self._begun = time.monotonic()
        self._until = _until.get() or math.inf
        self._since: float | None = None
        self._longest = 0.0

    @contextmanager
    def once(self) -> Iterator[None]:
        """Inside, the call waits for the service."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._heard()

    def over(self, pieces: Iterator[_Piece]) -> Iterator[_Piece]:
        """The same pieces; what is waited for each of them counts, and not what is done with them."""
        while True:
            with self.once():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def connected(self) -> None:
        """The time until now was that of the network, not of the model."""
        if self._since is not None:
            self._since = time.monotonic()

    def look_in(self) -> float:
        """Seconds after which to ask whether it is to be given up."""
        since = self._since
        if self.bound >= self.limit:
            return math.inf
        return LOOK_EVERY if since is None else max(0.0, since + self.bound - time.monotonic())

    @property
    def is_overdue(self) -> bool:
        """Whether it is silent for longer than such calls are."""
        since = self._since
        return self.bound < self.limit and since is not None and time.monotonic() - since >= self.bound

    def give_up(self) -> bool:
        """Whether one that is overdue is given up. Where that may not be, or another attempt would come too late if it
        took as long as this one and were silent as long as others, it is waited for.
        """
        now = time.monotonic()
        in_time = self._until - now > now - self._begun + self.bound
        self.given_up = in_time and self._silence.spend()
        if not self.given_up:
            self.bound = self.limit
        return self.given_up

    def succeeded(self) -> None:
        """The call is over, and well."""
        self._silence.heard(self._longest)

    def _heard(self) -> None:
        since, self._since = self._since, None
        if since is not None:
            self._longest = max(self._longest, time.monotonic() - since)
