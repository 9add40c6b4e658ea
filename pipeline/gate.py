"""What all workers know about a service that limits or fails: a gate, and how it changes with what they see.

The gate is open, closed until a moment, or unproven: after a closure one request is the probe that opens it. What would
be refused is refused once, and not by every worker. In the terms of a circuit breaker (M. Nygard, "Release It!", 2007)
these are closed, open and half-open.

Bulk work is careful: it proves a gate at the start and after a silence as well, with a request of a single text.
People's calls go where nothing is known against it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

State = Literal["closed", "open", "half-open"]
"""Of a circuit breaker: an open gate is a closed circuit."""

T = TypeVar("T")

SHORTEST_CLOSURE = 0.5
LONGEST_CLOSURE = 60.0
"""Unless the service itself asks for more."""
GROWTH, MOST_GROWTH = 1.5, 4.0
"""A closure is that many times longer than asked for where the last one was no help, up to so many times."""
FAULTS_TO_CLOSE = 8
"""Faults in a row, of all workers: an outage. Three requests in ten failing give eight in a row once in 15,000."""
FAULT_SPAN = 1.0
"""Seconds that they must span: of many calls made at once those that fail are over long before those that succeed."""
PROBE_SECONDS = 5.0
"""A probe that has no outcome by then may be that of a dead worker: the next one goes."""
POLL_SECONDS = 0.1
"""How often to ask for the outcome of somebody else's probe."""
STALE_AFTER = 60.0
"""What was open so long ago is proven anew."""
RENEW_EVERY = 5.0
CLOCK_DIFFERS = 1.0
"""A clock that was set back by less than that does no harm."""
LONGER_BY = 0.5
"""A closed gate is closed for longer only where that is so many seconds: of a thousand requests that were under way
together each is refused a little later than the one before, and nobody else needs to hear of that.
"""


@dataclass(frozen=True)
class Gate:
    """What all workers know about one service. Times are seconds of one clock, that of whoever stores it."""

    opened_at: float | None = None
    proven_at: float = 0.0
    closed_until: float = 0.0
    closed_for: float = 0.0
    in_vain: int = 0
    closures: int = 0
    """So far: who sees a new one is careful, whoever met it."""
    probe_until: float = 0.0
    faults: int = 0
    faults_since: float = 0.0
    """When the first of those faults in a row was under way, or an answer was begun after it."""
    closed_at: float = 0.0
    refused: bool = False
    """It is closed because the service refused; else because it failed."""
    cause: str = ""
    """The message of the error that closed it."""

    def is_open(self, now: float) -> bool:
        """Whether requests of bulk work go out as they come."""
        return self.opened_at is not None and now - self.proven_at < STALE_AFTER

    @property
    def lets_pass(self) -> bool:
        """Whether nothing is known against calling: it was opened, or never closed."""
        return self.opened_at is not None or not self.closures

    def shut_for(self, now: float) -> float:
        """For how many seconds it stays closed. One that would stay so for longer than it was closed for is over: the
        clock was set back.
        """
        left = self.closed_until - now
        return left if 0 < left <= self.closed_for + CLOCK_DIFFERS else 0.0

    def state(self, now: float) -> State:
        """What it is as a circuit breaker."""
        if self.lets_pass:
            return "closed"
        return "open" if self.shut_for(now) else "half-open"


@dataclass(frozen=True)
class Entry:
    """The gate's answer: go (``wait`` is 0), as the probe or not; or come again after ``wait`` seconds."""

    wait: float = 0.0
    probe: bool = False
    closures: int = 0


def enter(gate: Gate, now: float) -> tuple[Gate, Entry]:
    """Ask to send one request."""
    if gate.is_open(now):
        return gate, Entry(closures=gate.closures)
    if shut := gate.shut_for(now):
        return gate, Entry(wait=shut)
    if 0 < gate.probe_until - now <= PROBE_SECONDS + CLOCK_DIFFERS:
        return gate, Entry(wait=min(POLL_SECONDS, gate.probe_until - now))
    return replace(gate, probe_until=now + PROBE_SECONDS), Entry(probe=True, closures=gate.closures)


def enter_unproven(gate: Gate, now: float) -> tuple[Gate, Entry]:
    """Ask to make one call for somebody who waits: what was never closed needs no proof."""
    return (gate, Entry(closures=gate.closures)) if gate.lets_pass else enter(gate, now)


def left(gate: Gate, probe: bool) -> Gate:
    """A request was not sent after all."""
    return replace(gate, probe_until=0.0) if probe else gate


def worked(gate: Gate, now: float, probe: bool) -> Gate:
    """The service answered. What was sent before the gate closed says nothing about after."""
    if gate.is_open(now):
        fresh = not gate.faults and now - gate.proven_at < RENEW_EVERY
        return gate if fresh else replace(gate, faults=0, proven_at=now)
    if probe:
        return replace(gate, opened_at=now, proven_at=now, probe_until=0.0, faults=0)
    return replace(gate, faults=0) if gate.lets_pass else gate


def answered(gate: Gate, now: float) -> Gate:
    """An answer has begun: the faults until now are counted, but the time that they must span begins anew."""
    return replace(gate, faults_since=now) if gate.faults and gate.lets_pass else gate


def refused(gate: Gate, now: float, asked: float | None, cause: str = "") -> Gate:
    """The service refuses for ``asked`` seconds, or doesn't say for how long."""
    after = _closed(gate, now, asked)
    return gate if after is gate else replace(after, refused=True, cause=cause)


def faulted(
    gate: Gate,
    now: float,
    probe: bool,
    *,
    most: int = FAULTS_TO_CLOSE,
    span: float = 0.0,
    lasted: float = 0.0,
    closure: float | None = None,
    cause: str = "",
) -> Gate:
    """A request failed, or had no answer in time, after ``lasted`` seconds. A single fault closes nothing; a failed
    probe, or ``most`` in a row over ``span`` seconds, do, for ``closure`` seconds at first. The probe that bulk work
    begins with is a request like any other to those for whom the gate is open.
    """
    if not probe and not gate.lets_pass:
        return gate
    since = min(now, gate.faults_since) if gate.faults else now - lasted
    if not gate.lets_pass or (gate.faults + 1 >= most and now - since >= span):
        after = _closed(gate, now, closure)
        return gate if after is gate else replace(after, refused=False, cause=cause)
    probe_until = 0.0 if probe else gate.probe_until
    return replace(gate, faults=gate.faults + 1, faults_since=since, probe_until=probe_until)


def _closed(gate: Gate, now: float, asked: float | None) -> Gate:
    """Closed for as long as asked for.

    Where that happens again before it was open for as long as it had been closed, the closure was in vain, and the next
    one is longer.
    """
    least = max(asked or 0.0, SHORTEST_CLOSURE)
    if gate.opened_at is None and gate.shut_for(now):  # by a request that was under way with the first one
        until = now + (asked or 0.0)
        longer = replace(gate, closed_until=until, closed_for=max(gate.closed_for, until - now))
        return longer if until > gate.closed_until + LONGER_BY else gate
    soon = gate.opened_at is None or now - gate.opened_at < gate.closed_for
    in_vain = gate.in_vain + 1 if soon and gate.closed_for else 0
    most = max(least, LONGEST_CLOSURE)
    wait = min(least * min(GROWTH ** min(in_vain, 30), MOST_GROWTH), most)
    again = not gate.lets_pass
    return Gate(
        closed_until=now + wait,
        closed_for=wait,
        in_vain=in_vain,
        closures=gate.closures + 1,
        closed_at=gate.closed_at if again else now,
    )


class GateStore(Protocol):
    """Where a gate is kept."""

    def change(self, transition: Callable[[Gate, float], tuple[Gate, T]]) -> T:
        """Apply ``transition`` to the gate and the time now, atomically; returns what it gives beside the gate.

        May call it several times. Never raises: work goes on where the store is down.
        """

    def look(self, max_age: float) -> tuple[Gate, float]:
        """The gate as it was at most ``max_age`` seconds ago (longer where others are just asking), and the time now.
        Never raises.
        """


class LocalGateStore:
    """A gate for one process alone."""

    def __init__(self) -> None:
        """Unproven."""
        self._lock = threading.Lock()
        self._gate = Gate()

    def change(self, transition: Callable[[Gate, float], tuple[Gate, T]]) -> T:
        """See :class:`GateStore`; the clock is monotonic."""
        with self._lock:
            self._gate, found = transition(self._gate, time.monotonic())
        return found

    def look(self, max_age: float) -> tuple[Gate, float]:
        """See :class:`GateStore`; it is always new."""
        return self._gate, time.monotonic()
