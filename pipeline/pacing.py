"""How fast bulk work may call a service that limits, fails or hangs: a gate for all workers, a window per process.

The window bounds the requests of one process at once, and how large they are. Questions don't come through here: people
are not held up by what bulk work has used up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from pipeline.errors import CeleriacError, Postponed, RateLimited, ServerFault, TimedOut, Unreachable
from pipeline.gate import Gate, GateStore, enter, faulted, left, refused, worked

WAIT_AT_GATE = 1.0
"""Who has to wait for longer gives up the slot of its worker and comes again."""
WAIT_FOR_PLACE = 10.0
"""Within a process a place comes free with each request that ends: waiting for it is cheaper than coming again."""

FIRST_WINDOW = 2
SMALLEST_SHARE = 1 / 32
SHARE_AFTER_FAULT = 1 / 4
SHARE_GROWTH = 17 / 16
"""With these two requests stay full where fewer than one in 25 fails, and become small where more do."""

_log = structlog.get_logger(__name__)


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

    def texts(self, full: int) -> int:
        """How many texts the request may hold, if a full one holds ``full``."""
        return 1 if self.probe else max(1, round(full * self.share))


class Pace:
    """Admits the requests of one process to one service, and learns from what becomes of them."""

    def __init__(self, upstream: str, store: GateStore, *, most: int) -> None:
        """``upstream`` is its name in messages; at most ``most`` requests at once."""
        self._upstream = upstream
        self._store = store
        self._window = Window(most)
        self._closures = 0

    @property
    def share(self) -> float:
        """What share of a full request the next one may hold."""
        return self._window.share

    @contextmanager
    def permit(self) -> Iterator[Permit]:
        """Send one request inside. Raises Postponed where it would have to wait for long: nothing was sent then."""
        permit = self._admitted()
        try:
            yield permit
        except RateLimited as error:
            self._refused(permit, error)
            raise
        except (TimedOut, Unreachable, ServerFault) as error:
            self._faulted(permit, error)
            raise
        except CeleriacError:
            self._worked(permit)  # it refuses this request, but it answers
            raise
        except BaseException:
            self._left(permit)
            raise
        else:
            if permit.unused:
                self._left(permit)
            else:
                self._worked(permit)
        finally:
            self._window.give_back()

    def _admitted(self) -> Permit:
        end = time.monotonic() + WAIT_AT_GATE
        while True:
            begun_in = self._window.take(WAIT_FOR_PLACE)
            if begun_in is None:
                raise self._postponed("All requests at once that it takes are under way", WAIT_AT_GATE)
            entry = self._store.change(enter)
            if not entry.wait:
                if entry.closures != self._closures:
                    self._closures = entry.closures
                    self._window.careful()
                return Permit(self._window.share, entry.probe, begun_in)
            self._window.give_back()
            if time.monotonic() + entry.wait > end:
                raise self._postponed("It refuses or fails for now", max(entry.wait, WAIT_AT_GATE))
            time.sleep(entry.wait)

    def _worked(self, permit: Permit) -> None:
        self._window.worked()
        self._store.change(lambda gate, now: (worked(gate, now, permit.probe), None))

    def _refused(self, permit: Permit, error: RateLimited) -> None:
        self._window.overloaded(permit.begun_in)
        wait = self._store.change(lambda gate, now: _with_wait(refused(gate, now, error.retry_after), now))
        _log.warning("service refuses", upstream=self._upstream, asked=error.retry_after, wait=round(wait, 2))

    def _faulted(self, permit: Permit, error: CeleriacError) -> None:
        self._window.failed()
        if isinstance(error, TimedOut):
            self._window.overloaded(permit.begun_in)
        wait = self._store.change(lambda gate, now: _with_wait(faulted(gate, now, permit.probe), now))
        if wait > 0:
            _log.warning("service fails", upstream=self._upstream, error=error.message, wait=round(wait, 2))

    def _left(self, permit: Permit) -> None:
        self._store.change(lambda gate, _now: (left(gate, permit.probe), None))

    def _postponed(self, why: str, seconds: float) -> Postponed:
        detail = {"upstream": self._upstream, "retry_after": round(seconds, 3)}
        return Postponed(f"{self._upstream} is not called now. {why}.", "", detail)


def _with_wait(gate: Gate, now: float) -> tuple[Gate, float]:
    return gate, max(0.0, gate.closed_until - now)
