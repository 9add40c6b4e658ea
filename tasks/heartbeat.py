"""Each worker says every few seconds that it lives, what it serves, and how long its event loop has stalled.

``<namespace>:worker:<token>`` holds the newest report as JSON and expires by itself; ``<namespace>:workers`` lists
every token that may still hold messages (see ``tasks.recovery``).
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import structlog
from redis import RedisError

import celeryconfig
from pipeline.errors import CeleriacError
from pipeline.types import Value
from pipeline.wiring import Parts
from tasks import runtime
from tasks.forking import ForkGuard
from tasks.reconnection import Orphans, held_key

_log = structlog.get_logger(__name__)
_TICK = 0.1
_FLUSH_EVERY = 2.0
# Each for the thread of its name. A gevent pool doesn't fork, and a greenlet must not be left inside of a fork.
_forks = not runtime.is_patched()
_while_beating, _while_flushing = ForkGuard(forks=_forks), ForkGuard(forks=_forks)
_beating: _Heartbeat | None = None
_missing: tuple[str, ...] = ()


class WorkerReport(Value):
    """A worker's newest sign of life. ``stall_ms`` is the longest time its event loop kept a due timer waiting,
    since the start; ``resident_mb`` is its memory. ``missing`` is what it could not have when it was to get ready for
    questions: the first ones may take longer.
    """

    token: str
    name: str
    pid: int
    pool: str
    concurrency: int
    queues: tuple[str, ...]
    started_at: float
    seen_at: float
    running: int = 0
    stall_ms: float = 0.0
    resident_mb: float = 0.0
    missing: tuple[str, ...] = ()


def start(consumer: Any, parts: Parts) -> None:
    """Send the first report now, and the following ones from a thread (a greenlet under gevent)."""
    global _beating
    _beating = _Heartbeat(consumer, parts)
    _beating.start()


def note_missing(names: tuple[str, ...]) -> None:
    """What this process could not have when it got ready."""
    global _missing
    _missing = names


def stop() -> None:
    """Leave: what this worker held has been given back by its warm shutdown."""
    if _beating is not None:
        _beating.stop()


def reports(parts: Parts) -> list[WorkerReport]:
    """The reports of all workers alive, by name."""
    tokens: Any = parts.redis.smembers(registry_key(parts))
    raw: Any = parts.redis.mget([report_key(parts, token.decode()) for token in tokens]) if tokens else []
    return sorted((WorkerReport.model_validate_json(report) for report in raw if report), key=lambda r: r.name)


def registry_key(parts: Parts) -> str:
    """The set of tokens of workers that may hold messages."""
    return f"{parts.settings.namespace}:workers"


def report_key(parts: Parts, token: str) -> str:
    """The newest report of one worker."""
    return f"{parts.settings.namespace}:worker:{token}"


class _Heartbeat:
    def __init__(self, consumer: Any, parts: Parts) -> None:
        self._consumer = consumer
        self._parts = parts
        self._over = threading.Event()
        self._started_at = time.time()
        self._stall = 0.0
        self._orphans = Orphans()
        self._process = psutil.Process()

    def start(self) -> None:
        loops = {"heartbeat": self._beat_for_ever, "stalls": self._watch_stalls, "caches": self._flush_for_ever}
        for name, loop in loops.items():
            threading.Thread(target=loop, name=name, daemon=True).start()

    def stop(self) -> None:
        self._over.set()
        token, redis = celeryconfig.worker_token, self._parts.redis
        with contextlib.suppress(CeleriacError, RedisError, OSError):
            redis.delete(report_key(self._parts, token))
            if not redis.exists(held_key(token)):  # or the sweep gives back what is left there
                redis.srem(registry_key(self._parts), token)

    def _beat_for_ever(self) -> None:
        while not self._over.is_set():
            try:
                with _while_beating.whole():
                    self._beat()
                    self._orphans.give_back(self._consumer.app)
            except Exception as error:  # noqa: BLE001 - no failure may end the only sign of life
                _log.warning("heartbeat not sent", error=str(error))
            self._over.wait(self._parts.settings.heartbeat_ttl / 4)

    def _beat(self) -> None:
        settings = self._parts.settings
        with self._parts.redis.pipeline(transaction=False) as pipe:
            pipe.sadd(registry_key(self._parts), celeryconfig.worker_token)
            pipe.set(
                report_key(self._parts, celeryconfig.worker_token),
                json.dumps(self._report().model_dump(mode="json")),
                px=int(settings.heartbeat_ttl * 1000),
            )
            pipe.execute()

    def _flush_for_ever(self) -> None:
        """Apart from the heartbeat, which nothing may hold up."""
        while not self._over.wait(_FLUSH_EVERY):
            try:
                with _while_flushing.whole():
                    self._parts.caches.flush()
            except Exception as error:  # noqa: BLE001 - a later one may get through
                _log.warning("caches not written", error=str(error))

    def _report(self) -> WorkerReport:
        controller = self._consumer.controller
        return WorkerReport(
            token=celeryconfig.worker_token,
            name=self._consumer.hostname,
            pid=os.getpid(),
            pool=controller.pool_cls.__module__.rsplit(".", 1)[-1],
            concurrency=controller.concurrency or 1,
            queues=tuple(sorted(self._queues())),
            started_at=self._started_at,
            seen_at=time.time(),
            running=len(controller.state.active_requests),
            stall_ms=round(self._stall * 1000, 1),
            resident_mb=round(self._process.memory_info().rss / 2**20, 1),
            missing=_missing,
        )

    def _queues(self) -> Iterator[str]:
        for queue in self._consumer.task_consumer.queues if self._consumer.task_consumer else ():
            yield queue.name

    def _watch_stalls(self) -> None:
        due = time.monotonic() + _TICK
        while not self._over.wait(max(0.0, due - time.monotonic())):
            self._stall = max(self._stall, time.monotonic() - due)
            due = time.monotonic() + _TICK
