"""Who dies when: one seeded generator decides."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable

from tests.chaos.crew import Crew
from tests.chaos.services import RedisEnd, Services

_KILL_EVERY = (1.0, 3.0)
_FREEZE_EVERY = (6.0, 12.0)
_FROZEN_BEYOND_LEASE = (0.5, 2.0)
_DOWN = (0.0, 2.0)
_SHARE = (0.05, 0.6)
_KINDS = {"gevent": ("ingest",), "prefork": ("parse",), "child": ("parse",), "control": ("control",)}
"""What may be killed: a whole gevent worker, a whole prefork worker, one process of its pool, the one that sweeps."""
_DICE = ("gevent", "gevent", "gevent", "prefork", "prefork", "child", "child", "child", "control")


class Outage:
    """A service that goes down once, when a drawn share of the run is over, and comes back after some time."""

    def __init__(self, dice: random.Random, end: Callable[[], None], revive: Callable[[], None]) -> None:
        """Draw when, and for how long."""
        self._share, self._seconds = dice.uniform(*_SHARE), dice.uniform(*_DOWN)
        self._end, self._revive = end, revive
        self._ended_at: float | None = None
        self.over = False

    def act(self, share: float) -> None:
        """What is due, with this share of the run over."""
        now = time.monotonic()
        if self._ended_at is None:
            if share >= self._share:
                self._end()
                self._ended_at = now
        elif now >= self._ended_at + self._seconds:
            self.finish()

    def finish(self) -> None:
        """Bring it back now, if it is down."""
        if self._ended_at is not None and not self.over:
            self._revive()
            self.over = True


class Monkey:
    """Kills workers, freezes some, and takes both services down once; call :meth:`act` some times a second."""

    def __init__(self, dice: random.Random, crew: Crew, services: Services, *, lease: float) -> None:
        """``lease`` is after how many seconds of silence a worker counts as dead."""
        self._dice = dice
        self._crew = crew
        self._lease = lease
        ends: tuple[RedisEnd, ...] = ("SIGKILL", "SHUTDOWN NOSAVE")
        self.redis_end = dice.choice(ends)
        self._outages = (
            Outage(dice, lambda: services.end_redis(self.redis_end), services.revive_redis),
            Outage(dice, services.end_postgres, services.revive_postgres),
        )
        self._kill_at = time.monotonic() + dice.uniform(*_KILL_EVERY)
        self._freeze_at = time.monotonic() + dice.uniform(*_FREEZE_EVERY)
        self.kills: Counter[str] = Counter()
        self.freezes = 0

    @property
    def has_restarted_both(self) -> bool:
        """Whether both services went down and came back."""
        return all(outage.over for outage in self._outages)

    def act(self, share: float, *, kills: bool) -> None:
        """What is due, with this share of the run over; without ``kills`` only services still go down."""
        now = time.monotonic()
        for outage in self._outages:
            outage.act(share)
        if not kills:
            return
        if now >= self._kill_at:
            self._kill()
            self._kill_at = now + self._dice.uniform(*_KILL_EVERY)
        if now >= self._freeze_at:
            self._freeze()
            self._freeze_at = now + self._dice.uniform(*_FREEZE_EVERY)

    def rest(self) -> None:
        """Leave no service down."""
        for outage in self._outages:
            outage.finish()

    def _kill(self) -> None:
        how = self._dice.choice(_DICE)
        victims = self._crew.of_kind(*_KINDS[how]) or self._crew.of_kind("ingest", "parse")
        if not victims:
            return
        victim = self._dice.choice(victims)
        children = victim.children() if how == "child" else []
        if children:
            self._dice.choice(children).send(signal.SIGKILL)
        else:
            victim.strike()
        self.kills["child" if children else victim.kind] += 1

    def _freeze(self) -> None:
        """A worker that is taken for dead and comes back: what it writes then must not count."""
        victims = self._crew.of_kind("ingest", "parse")
        if victims:
            self._dice.choice(victims).freeze(self._lease + self._dice.uniform(*_FROZEN_BEYOND_LEASE))
            self.freezes += 1
