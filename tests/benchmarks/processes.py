"""What processes use: processor time, and the most memory they held."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import redis

_TICKS = os.sysconf("SC_CLK_TCK")
_EVERY = 0.25


class Usage(NamedTuple):
    """What was used between two moments. Seconds of processor time and peak resident memory (MB) by kind of process;
    ``busy`` is the share of the machine's processors that were not idle, whoever used them.
    """

    seconds: float
    cpu: dict[str, float]
    peak_mb: dict[str, float]
    redis_mb: float
    busy: float

    @property
    def others(self) -> float:
        """Share of the processors that programs outside of the benchmark used: times are longer by as much."""
        return round(max(0.0, self.busy - sum(self.cpu.values()) / (self.seconds * (os.cpu_count() or 1))), 3)


class Watch:
    """Watches process trees by name while it is entered; a name's number ("ingest-2") is left out of its kind.

    Processor time is exact: each tree's at the end less that at the beginning, ended children included. Memory is the
    kernel's own high-water mark of each process, read four times a second, so that of a short-lived child may be missed
    by what it grew in its last quarter of a second. Kinds of pools are ``parse`` for the master and ``parse child``.
    """

    def __init__(self, trees: Mapping[str, int], redis_url: str) -> None:
        """Trees by name; :meth:`add` adds one that starts later."""
        self._trees = dict(trees)
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=5)
        self._peak: dict[str, float] = {}
        self._redis_mb = 0.0
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample_until_over, daemon=True)
        self._before: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._before = self._cpu()
        self._machine = _machine()
        self._begun = time.monotonic()
        self._sampler.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._over.set()
        self._sampler.join()
        self._redis.close()

    def add(self, name: str, pid: int) -> None:
        """Watch one more tree, all of whose time counts."""
        self._trees[name] = pid

    def usage(self, **ended: float) -> Usage:
        """What was used so far; ``ended`` is the time of processes that are gone already, by kind."""
        after, machine = self._cpu(), _machine()
        cpu = {kind: after[kind] - self._before.get(kind, 0.0) for kind in after} | ended
        idle, total = (now - then for now, then in zip(machine, self._machine, strict=True))
        return Usage(
            seconds=time.monotonic() - self._begun,
            cpu={kind: round(used, 2) for kind, used in cpu.items()},
            peak_mb=dict(sorted(self._peak.items())),
            redis_mb=round(self._redis_mb, 1),
            busy=round(1 - idle / total, 3) if total else 0.0,
        )

    def _cpu(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, pid in self._trees.items():
            for kind, used in _tree_cpu(_kind(name), pid):
                found[kind] = found.get(kind, 0.0) + used
        return found

    def _sample_until_over(self) -> None:
        while not self._over.wait(_EVERY):
            for name, pid in list(self._trees.items()):
                for kind, mb in _tree_memory(_kind(name), pid):
                    self._peak[kind] = max(self._peak.get(kind, 0.0), mb)
            with contextlib.suppress(redis.RedisError):
                info: Any = self._redis.info("memory")
                self._redis_mb = max(self._redis_mb, info["used_memory"] / 2**20)


def cpu_of(pids: frozenset[int]) -> float:
    """Seconds of processor time that these processes themselves have used."""
    return sum(_stat(pid)[0] for pid in pids)


def cpu_of_tree(pid: int) -> float:
    """Seconds of processor time of a process and of all it has started."""
    return sum(used for _, used in _tree_cpu("", pid))


def _kind(name: str) -> str:
    return name.rstrip("0123456789").rstrip("-")


def _tree_cpu(kind: str, pid: int) -> Iterator[tuple[str, float]]:
    own, ended = _stat(pid)
    yield kind, own
    children = _descendants(pid)
    if children or ended:
        yield f"{kind} child", ended + sum(sum(_stat(child)) for child in children)


def _tree_memory(kind: str, pid: int) -> Iterator[tuple[str, float]]:
    yield kind, _high_water(pid)
    for child in _descendants(pid):
        yield f"{kind} child", _high_water(child)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has just ended
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found + [grandchild for child in found for grandchild in _descendants(child)]


def _stat(pid: int) -> tuple[float, float]:
    """(own, of ended children) seconds; zeros for a process that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0
    own, ended = (int(fields[11]) + int(fields[12])), (int(fields[13]) + int(fields[14]))
    return own / _TICKS, ended / _TICKS


def _high_water(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def _machine() -> tuple[float, float]:
    """(idle, total) ticks of all processors since the start."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return float(ticks[3] + ticks[4]), float(sum(ticks))
