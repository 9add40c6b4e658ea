"""What an installation holds, looked at now and then, and whether it grows with the questions it answers."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import psycopg
import redis

from tests.chaos.crew import Member
from tests.storms.installation import Installation

MB_PER_1000 = 1.0
"""Resident memory that a worker may gain with a thousand questions."""
_SLACK, _SLACK_SHARE = 10, 0.15
"""What a count may seem to grow by, for it goes up and down with the questions of the moment."""


@dataclass(frozen=True)
class Sample:
    """One look: seconds since the start, questions that were over, and amounts by name."""

    at: float
    questions: int
    amounts: dict[str, float]


@dataclass(frozen=True)
class Trend:
    """How an amount went on after the warm-up: ``per_1000`` is its least-squares slope by a thousand questions,
    ``growth`` the mean of its last third less that of its first.
    """

    name: str
    first: float
    last: float
    most: float
    mean: float
    per_1000: float
    growth: float

    @property
    def is_memory(self) -> bool:
        """Whether it is in MB."""
        return "MB" in self.name.split()

    @property
    def flat(self) -> bool:
        """Of memory: it grows by less than a MB with a thousand questions. Of what is counted: it levels out."""
        if self.is_memory:
            return self.per_1000 < MB_PER_1000
        return self.growth <= max(_SLACK, _SLACK_SHARE * self.mean)


def look(here: Installation) -> dict[str, float]:
    """All amounts, now: MB, descriptors, keys, connections."""
    found: dict[str, float] = {}
    for member in here.workers:
        found |= {f"{kind} {member.name}": amount for kind, amount in _of_process(member)}
    with redis.Redis.from_url(here.services.redis_url, socket_timeout=10) as client:
        info: Any = client.info()
        keys: Any = client.dbsize()
        found["redis keys"] = keys
        found["redis MB"] = info["used_memory"] / 2**20
        found["redis clients"] = info["connected_clients"]
    with psycopg.connect(here.parts.database_url, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()").fetchone()
        found["postgres connections"] = row[0] if row else 0
    return found


def trends(samples: Sequence[Sample], warm_up: float) -> list[Trend]:
    """Of every amount, from the samples after ``warm_up`` seconds on."""
    kept = [sample for sample in samples if sample.at >= warm_up]
    questions = np.array([sample.questions for sample in kept], float)
    return [_trend(name, questions, np.array([s.amounts[name] for s in kept])) for name in kept[0].amounts]


def _of_process(member: Member) -> Iterator[tuple[str, float]]:
    """Of the process and its children together."""
    process = psutil.Process(member.pid)
    tree = [process, *process.children(recursive=True)]
    resident = descriptors = 0
    for one in tree:
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            resident += one.memory_info().rss
            descriptors += len(os.listdir(f"/proc/{one.pid}/fd"))
    yield "MB", resident / 2**20
    yield "descriptors", descriptors


def _trend(name: str, questions: Any, amounts: Any) -> Trend:
    third = max(1, len(amounts) // 3)
    return Trend(
        name,
        first=float(amounts[0]),
        last=float(amounts[-1]),
        most=float(amounts.max()),
        mean=float(amounts.mean()),
        per_1000=float(np.polyfit(questions, amounts, 1)[0]) * 1000,
        growth=float(amounts[-third:].mean() - amounts[:third].mean()),
    )


def sampled_until(
    over: Callable[[], bool], here: Installation, asked: Callable[[], int], every: float, told: Callable[[Sample], None]
) -> list[Sample]:
    """A sample every so many seconds until ``over``; ``told`` hears of each."""
    begun, found = time.monotonic(), []
    while not over():
        found.append(Sample(time.monotonic() - begun, asked(), look(here)))
        told(found[-1])
        time.sleep(max(0.0, len(found) * every - (time.monotonic() - begun)))
    return found
