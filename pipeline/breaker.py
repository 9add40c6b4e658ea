"""A circuit breaker over a gate that all workers share: what a call costs while all is well is a look at a value.

What went well is told to the others only where that is news: after a fault, or by a probe.
"""

from __future__ import annotations

import structlog

from pipeline.errors import CeleriacError, RateLimited
from pipeline.gate import (
    FAULTS_TO_CLOSE,
    SHORTEST_CLOSURE,
    Entry,
    Gate,
    GateStore,
    answered,
    enter_unproven,
    faulted,
    left,
    refused,
    worked,
)

FRESH = 0.25
"""A gate seen so many seconds ago is good enough for a call that asks nobody else."""

_log = structlog.get_logger(__name__)


class Breaker:
    """What one process does with the gate of one service."""

    def __init__(
        self,
        upstream: str,
        store: GateStore,
        *,
        faults: int = FAULTS_TO_CLOSE,
        seconds: float = SHORTEST_CLOSURE,
        span: float = 0.0,
    ) -> None:
        """It opens after so many ``faults`` in a row over ``span`` seconds, for so many ``seconds`` at first;
        ``upstream`` is for the log.
        """
        self._upstream = upstream
        self._store = store
        self._faults = faults
        self._seconds = seconds
        self._span = span

    def gate(self, max_age: float = FRESH) -> tuple[Gate, float]:
        """The gate, and the time now by its clock."""
        return self._store.look(max_age)

    def enter(self, max_age: float = FRESH) -> Entry:
        """Ask to make one call for somebody who waits."""
        gate, now = self._store.look(max_age)
        if gate.lets_pass:
            return Entry(closures=gate.closures)
        _, entry = enter_unproven(gate, now)
        return self._store.change(enter_unproven) if entry.probe else entry

    def worked(self, probe: bool) -> None:
        """The service answered."""
        gate, _ = self._store.look(FRESH)
        if probe or gate.faults:
            self._store.change(lambda gate, now: (worked(gate, now, probe), None))
        if probe:
            _log.info("service is back", upstream=self._upstream)

    def answered(self) -> None:
        """The service has begun an answer: faults until now are no outage, whatever becomes of it."""
        gate, _ = self._store.look(FRESH)
        if gate.faults and gate.lets_pass:
            self._store.change(lambda gate, now: (answered(gate, now), None))

    def proven(self, probe: bool) -> None:
        """The same, told in any case: bulk work proves a gate anew after a while without a word."""
        self._store.change(lambda gate, now: (worked(gate, now, probe), None))

    def refused(self, error: RateLimited) -> float:
        """The service refuses; gives the seconds that nobody is to call it."""
        asked, cause = error.retry_after, error.message
        wait = self._store.change(lambda gate, now: _with_wait(refused(gate, now, asked, cause), now))
        _log.warning("service refuses", upstream=self._upstream, asked=asked, wait=round(wait, 2))
        return wait

    def faulted(self, error: CeleriacError, probe: bool, lasted: float = 0.0) -> float:
        """A call failed after ``lasted`` seconds; gives the seconds that nobody is to call it, 0 for a single one."""
        most, span, closure, cause = self._faults, self._span, self._seconds, error.message
        wait = self._store.change(
            lambda gate, now: _with_wait(
                faulted(gate, now, probe, most=most, span=span, lasted=lasted, closure=closure, cause=cause),
                now,
            )
        )
        if wait > 0:
            _log.warning("service fails", upstream=self._upstream, error=cause, wait=round(wait, 2))
        return wait

    def left(self, probe: bool) -> None:
        """A call was not made, or says nothing about the service."""
        if probe:
            self._store.change(lambda gate, _now: (left(gate, probe), None))


def _with_wait(gate: Gate, now: float) -> tuple[Gate, float]:
    return gate, gate.shut_for(now)
