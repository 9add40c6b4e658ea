"""How fast bulk work may call a service that limits, fails or hangs: a gate and limits for all workers, a window per
process.

The window bounds the requests of one process at once, and how large they are. Questions pass the same gate and the same
limits (:mod:`pipeline.governor`), but no window, and bulk work leaves them a share of each limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.breaker import Breaker
from pipeline.errors import CeleriacError, Postponed, RateLimited, ServerFault, TimedOut, Unreachable
from pipeline.gate import FAULTS_TO_CLOSE, POLL_SECONDS, SHORTEST_CLOSURE, GateStore, enter
from pipeline.governor import Admission, Allowance, Limiter, Unlimited, allowances

WAIT_AT_GATE = 1.0
"""Who has to wait for longer gives up the slot of its worker and comes again."""
WAIT_FOR_PLACE = 10.0
"""Within a process a place comes free with each request that ends: waiting for it is cheaper than coming again."""

FIRST_WINDOW = 2
SMALLEST_SHARE = 1 / 32
SHARE_AFTER_FAULT = 1 / 4
SHARE_GROWTH = 17 / 16
"""With these two requests stay full where fewer than one in 25 fails, and become small where more do."""


class Window:
    """How many requests one process sends at once, and what share of a full request each one holds.

    As TCP does it (RFC 5681): it opens by one with every success, so it doubles with each round, and is halved, once a
    round, where the service is overloaded. A fault makes requests small, so that the next one costs little.
    """

    def __init__(self, most: int) -> None:
        """``most`` requests at once."""
        self._most = most
        self._size = float(min(FIRST_WINDOW, most))
        self._used = 0
        self._round = 0
        self._changed = threading.Condition()
        self.share = 1.0

    @property
    def size(self) -> int:
        """Requests at once, now."""
        return int(self._size)

    def take(self, seconds: float) -> int | None:
        """Wait for a place; gives the number of the round, or None where there was none in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._used < self.size, seconds):
                return None
            self._used += 1
            return self._round

    def give_back(self) -> None:
        """Free a place."""
        with self._changed:
            self._used -= 1
            self._changed.notify()

    def worked(self) -> None:
        """Open a little."""
        with self._changed:
            self._size = min(float(self._most), self._size + 1)
            self.share = min(1.0, self.share * SHARE_GROWTH)
            self._changed.notify()

    def overloaded(self, begun_in: int) -> None:
        """Halve, but once for all requests that were under way together."""
        with self._changed:
            if begun_in == self._round:
                self._size = max(1.0, self._size / 2)
                self._round += 1

    def failed(self) -> None:
        """Make requests smaller."""
        with self._changed:
            self.share = max(SMALLEST_SHARE, self.share * SHARE_AFTER_FAULT)

    def careful(self) -> None:
        """Make requests as small as they get: a service that has just refused all is likely to fail some."""
        with self._changed:
            self.share = SMALLEST_SHARE


@dataclass
class Permit:
    """Leave to send one request; set ``unused`` where it was not sent."""

    share: float
    probe: bool
    begun_in: int
    unused: bool = False
    most_tokens: int | None = None
    """How many tokens it may hold; None: as many as the service takes."""
    admission: Admission = field(default_factory=Admission)
    tokens: int | None = None
    told: Mapping[str, Allowance] = field(default_factory=dict)

    def used(self, tokens: int) -> None:
        """How many tokens were billed."""
        self.tokens = tokens

    def seen(self, headers: Mapping[str, str]) -> None:
        """The headers of the reply, of which the ``x-ratelimit-*`` count."""
        self.told = allowances(headers)

    def texts(self, full: int) -> int:
        """How many texts the request may hold, if a full one holds ``full``."""
        return 1 if self.probe else max(1, round(full * self.share))


class Pace:
    """Admits the requests of one process to one service, and learns from what becomes of them."""

    def __init__(
        self,
        upstream: str,
        store: GateStore,
        *,
        most: int,
        limiter: Limiter | None = None,
        faults: int = FAULTS_TO_CLOSE,
        seconds: float = SHORTEST_CLOSURE,
    ) -> None:
        """``upstream`` is its name in messages; at most ``most`` requests at once. After so many ``faults`` in a row
        the gate closes, for so many ``seconds`` at first; they need not span any time, since requests of bulk work are
        few and large, and each that fails is paid for in texts.
        """
        self._upstream = upstream
        self._store = store
        self._breaker = Breaker(upstream, store, faults=faults, seconds=seconds)
        self._limiter = limiter or Unlimited()
        self._window = Window(most)
        self._closures = 0

    @property
    def share(self) -> float:
        """What share of a full request the next one may hold."""
        return self._window.share

    @contextmanager
    def permit(self, tokens: Callable[[Permit], int] | None = None) -> Iterator[Permit]:
        """Send one request inside, of about as many tokens as ``tokens`` says. Raises Postponed where it would have to
        wait for long: nothing was sent then.
        """
        permit = self._admitted(tokens or _none)
        try:
            yield permit
        except RateLimited as error:
            self._window.overloaded(permit.begun_in)
            self._breaker.refused(error)
            raise
        except (TimedOut, Unreachable, ServerFault) as error:
            self._faulted(permit, error)
            raise
        except CeleriacError:
            self._worked(permit)  # it refuses this request, but it answers
            raise
        except BaseException:
            self._breaker.left(permit.probe)
            raise
        else:
            self._breaker.left(permit.probe) if permit.unused else self._worked(permit)
        finally:
            self._window.give_back()
            self._limiter.settle("bulk", permit.admission, permit.tokens, permit.told, made=not permit.unused)

    def _admitted(self, tokens: Callable[[Permit], int]) -> Permit:
        end = time.monotonic() + WAIT_AT_GATE
        while True:
            begun_in = self._window.take(WAIT_FOR_PLACE)
            if begun_in is None:
                raise self._postponed("All requests at once that it takes are under way", WAIT_AT_GATE)
            permit, wait, why = self._tried(begun_in, tokens)
            if permit is not None:
                return permit
            self._window.give_back()
            if time.monotonic() + wait > end:
                raise self._postponed(why, max(wait, WAIT_AT_GATE))
            time.sleep(wait)

    def _tried(self, begun_in: int, tokens: Callable[[Permit], int]) -> tuple[Permit | None, float, str]:
        """The permit; or none, with the seconds to wait and why."""
        entry = self._store.change(enter)
        if entry.wait:
            return None, entry.wait, "It refuses or fails for now"
        if entry.closures != self._closures:
            self._closures = entry.closures
            self._window.careful()
        permit = Permit(self._window.share, entry.probe, begun_in, most_tokens=self._limiter.most_tokens("bulk"))
        permit.admission = self._limiter.admit("bulk", tokens(permit), wait=0.0, probe=entry.probe)
        if permit.admission.moved or permit.admission.later:
            self._breaker.left(entry.probe)
            return (
                None,
                permit.admission.later or POLL_SECONDS,
                "What its limit per minute leaves to bulk work is used up",
            )
        return permit, 0.0, ""

    def _worked(self, permit: Permit) -> None:
        self._window.worked()
        self._breaker.proven(permit.probe)

    def _faulted(self, permit: Permit, error: CeleriacError) -> None:
        self._window.failed()
        if isinstance(error, TimedOut):
            self._window.overloaded(permit.begun_in)
        self._breaker.faulted(error, permit.probe)

    def _postponed(self, why: str, seconds: float) -> Postponed:
        detail = {"upstream": self._upstream, "retry_after": round(seconds, 3)}
        return Postponed(f"{self._upstream} is not called now. {why}.", "", detail)


def _none(_permit: Permit) -> int:
    return 0
