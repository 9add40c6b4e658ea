"""Who may call a model service now: its limits, shared by all workers, and its circuit breaker.

with upstream.call(tokens=estimate) as call:
    reply = …
    call.seen(reply.headers)
    call.used(reply.tokens)

A call waits in its place for half a second at most. Beyond that it raises Postponed, for limits and refusals, or
Unavailable, for a service that kept failing; both say when to come again, and the wait holds no slot of a worker.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from pipeline.breaker import FRESH, Breaker
from pipeline.errors import (
    Cancelled,
    CeleriacError,
    Postponed,
    RateLimited,
    ServerFault,
    TimedOut,
    Unavailable,
    Unreachable,
)
from pipeline.gate import Gate, LocalGateStore, State
from pipeline.silence import have_patience
from pipeline.types import Value

Lane = Literal["interactive", "bulk"]
Kind = Literal["chat", "embedding", "reranker", "store"]

WAIT_IN_PLACE = 0.5
"""Who would have to wait for longer comes again."""
LOOK_EVERY = 0.1
SOON = 0.5
"""When to come again while a probe is under way."""
SHORT_CALL = 1.0
"""A call that was given less time, or was given up early, says nothing about the service by not ending in it. A status
does, however soon.
"""

_lane: ContextVar[Lane] = ContextVar("lane", default="interactive")
_HEADER = re.compile(r"x-ratelimit-(limit|remaining|reset)-(requests|tokens)", re.IGNORECASE)
_PART = re.compile(r"([\d.]+)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Limit(NamedTuple):
    """Requests and tokens per minute; None: no limit."""

    requests: float | None = None
    tokens: float | None = None


class Allowance(NamedTuple):
    """What a reply says about one limit: per minute, what is left of it, and the seconds until all of it is back."""

    limit: float
    remaining: float
    reset: float


NOTHING_SEEN: Mapping[str, Allowance] = {}


class Admission(NamedTuple):
    """An answer of a limiter: go after ``wait`` seconds, or, with ``later``, nothing was taken: come again after that.

    ``moved``: nothing was taken either, since the gate is not what this process took it for. ``tokens`` are reserved.
    """

    wait: float = 0.0
    later: float = 0.0
    moved: bool = False
    tokens: int = 0
    counted: bool = False


class UpstreamReport(Value):
    """One upstream as operators see it. ``since`` is Unix seconds, when its breaker opened; ``retry_in`` the seconds
    until it is tried again. The limits are per minute; ``told`` says that the service named them, not the settings.
    Counts are of the current minute of the clock; ``waiting_seconds`` is when who comes last will be called.
    """

    kind: str
    service: str
    model: str
    breaker: State
    since: float | None = None
    retry_in: float = 0.0
    cause: str = ""
    faults: int = 0
    limit_requests: float | None = None
    limit_tokens: float | None = None
    told: bool = False
    requests: int = 0
    bulk_requests: int = 0
    tokens: int = 0
    waiting_seconds: float = 0.0


class Limiter(Protocol):
    """Keeps the calls of all workers within the limits of one model."""

    def admit(self, lane: Lane, tokens: int, *, wait: float, probe: bool) -> Admission:
        """Reserve one request and so many tokens, within ``wait`` seconds. Never raises."""

    def settle(
        self,
        lane: Lane,
        admission: Admission,
        used: int | None = None,
        seen: Mapping[str, Allowance] = NOTHING_SEEN,
        *,
        made: bool = True,
    ) -> None:
        """A call is over, or was not ``made``: the tokens it really used (None: unknown), and what its reply said, by
        the name of the limit. Never raises.
        """

    def learn(self, seen: Mapping[str, Allowance]) -> None:
        """What a reply said, before its call is over. Never raises."""

    def most_tokens(self, lane: Lane) -> int | None:
        """How many tokens a request may hold so that it holds up nobody; None: as many as one likes."""


class Unlimited:
    """A limiter for who shares nothing."""

    def admit(self, lane: Lane, tokens: int, *, wait: float, probe: bool) -> Admission:
        """At once."""
        return Admission(tokens=tokens)

    def settle(
        self,
        lane: Lane,
        admission: Admission,
        used: int | None = None,
        seen: Mapping[str, Allowance] = NOTHING_SEEN,
        *,
        made: bool = True,
    ) -> None:
        """Nothing to correct."""

    def learn(self, seen: Mapping[str, Allowance]) -> None:
        """Nothing to learn."""

    def most_tokens(self, lane: Lane) -> int | None:
        """No bound."""
        return None


@dataclass
class Call:
    """One call under way."""

    upstream: Upstream
    lane: Lane
    admission: Admission
    probe: bool
    begun: float
    tokens: int | None = None
    told: Mapping[str, Allowance] = field(default_factory=dict)

    def used(self, tokens: int) -> None:
        """How many tokens were billed."""
        self.tokens = tokens

    def seen(self, headers: Mapping[str, str]) -> None:
        """The headers of the reply, of which the ``x-ratelimit-*`` count: for others at once, since an answer may be
        long.
        """
        self.told = allowances(headers)
        self.upstream.limiter.learn(self.told)

    def answered(self) -> None:
        """The reply has begun. After an outage that lets the others go on, however long the rest of it takes, and what
        failed just before was none.
        """
        if self.probe:
            self.upstream.breaker.worked(probe=True)
            self.probe = False
        else:
            self.upstream.breaker.answered()


class Upstream:
    """One service and model, as this process sees it."""

    def __init__(self, name: str, breaker: Breaker, limiter: Limiter) -> None:
        """``name`` is for messages."""
        self.name = name
        self.breaker = breaker
        self.limiter = limiter

    @classmethod
    def alone(cls, name: str) -> Upstream:
        """One that no other process knows of, without limits."""
        return cls(name, Breaker(name, LocalGateStore()), Unlimited())

    @contextmanager
    def call(self, *, tokens: int = 0, follow: bool = False) -> Iterator[Call]:
        """Make one call inside, in the lane of who makes it; ``tokens`` is an estimate. Raises Postponed or
        Unavailable: nothing was sent then. ``follow``: where a probe is under way after an outage, wait for it.
        """
        lane = _lane.get()
        call = self._admitted(lane, tokens, follow)
        if call.probe:
            have_patience()
        try:
            yield call
        except (Postponed, Unavailable, Cancelled):
            self.breaker.left(call.probe)
            raise
        except RateLimited as error:
            self.breaker.refused(error)
            raise
        except (TimedOut, Unreachable, ServerFault) as error:
            self._failed(call, error)
            raise
        except CeleriacError:
            self.breaker.worked(call.probe)  # it refuses this request, but it answers
            raise
        except BaseException:
            self.breaker.left(call.probe)
            raise
        else:
            self.breaker.worked(call.probe)
        finally:
            self.limiter.settle(lane, call.admission, call.tokens, call.told)

    def _admitted(self, lane: Lane, tokens: int, follow: bool) -> Call:
        end, max_age = time.monotonic() + WAIT_IN_PLACE, FRESH
        while True:
            probe = self._let_in(end, max_age, follow)
            left = max(0.0, end - time.monotonic())
            admission = self.limiter.admit(lane, tokens, wait=left, probe=probe)
            max_age = LOOK_EVERY  # whoever has waited looks closer
            if admission.moved:
                self._wait_to_look(end)
                continue
            if admission.later:
                self.breaker.left(probe)
                raise self._postponed("Its limit per minute is used up", admission.later)
            if admission.wait:
                time.sleep(admission.wait)
                if not probe and not self.breaker.gate(LOOK_EVERY)[0].lets_pass:
                    self.limiter.settle(lane, admission, made=False)
                    continue
            return Call(self, lane, admission, probe, time.monotonic())

    def _wait_to_look(self, end: float) -> None:
        """The gate is not what it was taken for. That may stay so, as where another release wrote it."""
        if time.monotonic() + LOOK_EVERY > end:
            raise self._postponed("Others see it closed", SOON)
        time.sleep(LOOK_EVERY)

    def _let_in(self, end: float, max_age: float, follow: bool) -> bool:
        """Pass the breaker, as its probe or not."""
        while True:
            entry = self.breaker.enter(max_age)
            if not entry.wait:
                return entry.probe
            gate, now = self.breaker.gate(max_age)
            if gate.lets_pass:  # just now
                continue
            closed = gate.shut_for(now)
            waits = gate.refused or (follow and not closed)
            if not waits or time.monotonic() + max(closed, LOOK_EVERY) > end:
                raise self._shut(gate, max(closed, SOON))
            time.sleep(max(closed, LOOK_EVERY))
            max_age = LOOK_EVERY

    def _failed(self, call: Call, error: CeleriacError) -> None:
        lasted = time.monotonic() - call.begun
        early = lasted < SHORT_CALL or error.detail.get("early")
        if isinstance(error, TimedOut) and early and "status" not in error.detail:
            self.breaker.left(call.probe)
        else:
            self.breaker.faulted(error, call.probe, lasted)

    def _shut(self, gate: Gate, seconds: float) -> Postponed | Unavailable:
        if gate.refused:
            return self._postponed(gate.cause or "It refuses for now", seconds)
        return self._unavailable(gate.cause, seconds)

    def _postponed(self, why: str, seconds: float) -> Postponed:
        return Postponed(f"{self.name} is not called now. {_sentence(why)}", "", self._detail(seconds))

    def _unavailable(self, why: str, seconds: float) -> Unavailable:
        return Unavailable(f"{self.name} is not called now. {_sentence(why)}", "", self._detail(seconds))

    def _detail(self, seconds: float) -> dict[str, object]:
        return {"upstream": self.name, "retry_after": round(seconds, 3)}


@contextmanager
def in_lane(lane: Lane) -> Iterator[None]:
    """Calls made inside, by this thread or greenlet, are in this lane; without it they are interactive."""
    token = _lane.set(lane)
    try:
        yield
    finally:
        _lane.reset(token)


def allowances(headers: Mapping[str, str]) -> dict[str, Allowance]:
    """What the ``x-ratelimit-*`` headers of a reply say, by ``requests`` and ``tokens``. What is of a day is left out:
    its reset tells.
    """
    found: dict[str, dict[str, str]] = {}
    for name, value in headers.items():
        if match := _HEADER.fullmatch(name):
            found.setdefault(match[2].lower(), {})[match[1].lower()] = value
    read = {name: _allowance(values) for name, values in found.items()}
    return {name: allowance for name, allowance in read.items() if allowance is not None}


def _allowance(values: Mapping[str, str]) -> Allowance | None:
    try:
        limit, remaining = float(values["limit"]), float(values["remaining"])
        reset = _duration(values.get("reset", "0s"))
    except (KeyError, ValueError):
        return None
    of_a_minute = (limit - remaining) / limit * 60 * 1.5 if limit > 0 else 0.0
    return None if limit <= 0 or reset > of_a_minute + 1 else Allowance(limit, remaining, reset)


def _duration(text: str) -> float:
    """Seconds of ``6m0s``, ``120ms`` or a plain number."""
    parts = _PART.findall(text)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts) if parts else float(text)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
