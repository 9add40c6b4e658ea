"""What all workers know about a service that limits or fails: a gate, and how it changes with what they see.

The gate is open, closed until a moment, or unproven: after a closure, and at the start, one request of a single text is
the probe that opens it. What would be refused is refused once, for one text, and not by every worker for a full
request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

T = TypeVar("T")

SHORTEST_CLOSURE = 0.5
LONGEST_CLOSURE = 60.0
"""Unless the service itself asks for more."""
GROWTH, MOST_GROWTH = 1.5, 4.0
"""A closure is that many times longer than asked for where the last one was no help, up to so many times."""
FAULTS_TO_CLOSE = 5
"""Faults in a row, of all workers: an outage. One request in ten failing gives five in a row once in 100,000."""
PROBE_SECONDS = 5.0
"""A probe that has no outcome by then may be that of a dead worker: the next one goes."""
POLL_SECONDS = 0.1
"""How often to ask for the outcome of somebody else's probe."""
STALE_AFTER = 60.0
"""What was open so long ago is proven anew."""
RENEW_EVERY = 5.0


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

    def is_open(self, now: float) -> bool:
        """Whether requests go out as they come."""
        return self.opened_at is not None and now - self.proven_at < STALE_AFTER


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
    if now < gate.closed_until:
        return gate, Entry(wait=gate.closed_until - now)
    if now < gate.probe_until:
        return gate, Entry(wait=min(POLL_SECONDS, gate.probe_until - now))
    return replace(gate, probe_until=now + PROBE_SECONDS), Entry(probe=True, closures=gate.closures)


def left(gate: Gate, probe: bool) -> Gate:
    """A request was not sent after all."""
    return replace(gate, probe_until=0.0) if probe else gate


def worked(gate: Gate, now: float, probe: bool) -> Gate:
    """The service answered. What was sent before the gate closed says nothing about after."""
    if gate.is_open(now):
        fresh = not gate.faults and now - gate.proven_at < RENEW_EVERY
        return gate if fresh else replace(gate, faults=0, proven_at=now)
    return replace(gate, opened_at=now, proven_at=now, probe_until=0.0, faults=0) if probe else gate


def refused(gate: Gate, now: float, asked: float | None) -> Gate:
    """The service refuses for ``asked`` seconds, or doesn't say for how long.

    Where it refuses again before it was open for as long as it had been closed, the closure was in vain, and the next
    one is longer.
    """
    least = max(asked or 0.0, SHORTEST_CLOSURE)
    if gate.opened_at is None and now < gate.closed_until:  # by a request that was under way with the first one
        return replace(gate, closed_until=max(gate.closed_until, now + (asked or 0.0)))
    soon = gate.opened_at is None or now - gate.opened_at < gate.closed_for
    in_vain = gate.in_vain + 1 if soon and gate.closed_for else 0
    most = max(least, LONGEST_CLOSURE)
    wait = min(least * min(GROWTH ** min(in_vain, 30), MOST_GROWTH), most)
    return Gate(closed_until=now + wait, closed_for=wait, in_vain=in_vain, closures=gate.closures + 1)


def faulted(gate: Gate, now: float, probe: bool) -> Gate:
    """A request failed, or had no answer in time. A single fault closes nothing; a failed probe, or many, do."""
    if not gate.is_open(now):
        return refused(gate, now, None) if probe else gate
    if gate.faults + 1 >= FAULTS_TO_CLOSE:
        return refused(gate, now, None)
    return replace(gate, faults=gate.faults + 1)


class GateStore(Protocol):
    """Where a gate is kept."""

    def change(self, transition: Callable[[Gate, float], tuple[Gate, T]]) -> T:
        """Apply ``transition`` to the gate and the time now, atomically; returns what it gives beside the gate.

        May call it several times. Never raises: work goes on where the store is down.
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
