"""What one process knows of all gates and limits in Redis, read together, and what it has to tell there.

A question asks four services. Reading what is known about each of them for every question would cost more than all
else the governor does, so a process reads everything at once, a few times a second, while it is at work.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import redis
import structlog

WITHOUT_REDIS = 5.0
"""After a failure this process goes on alone for so long: not every call is to wait for a time limit."""
KEPT_MINUTES = 3
MOST_KEYS = 200
"""Questions name models: what was watched first is read no more, unless it is asked about again."""

_log = structlog.get_logger(__name__)


class Board:
    """Values of the keys that were asked about, as they were a moment ago; and counts per minute."""

    def __init__(self, client: redis.Redis, *, namespace: str) -> None:
        """Reads nothing yet."""
        self.client = client
        self.namespace = namespace
        self._values: dict[str, bytes] = {}
        self._changed: dict[str, float] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._ahead = time.time() - time.monotonic()
        self._read_at = float("-inf")
        self._alone_until = float("-inf")
        self._reading = threading.Lock()
        self._counting = threading.Lock()

    @property
    def is_shared(self) -> bool:
        """Whether Redis could be reached when it was last tried."""
        return time.monotonic() >= self._alone_until

    @property
    def now(self) -> float:
        """Unix seconds by the clock of Redis."""
        return time.monotonic() + self._ahead

    def watch(self, key: str) -> None:
        """Read ``key`` from now on."""
        while len(self._values) >= MOST_KEYS:
            oldest = next(iter(self._values))
            self._values.pop(oldest, None)
            self._changed.pop(oldest, None)
        self._values[key] = b""
        self._read_at = float("-inf")

    def get(self, key: str, max_age: float) -> bytes:
        """The value of ``key``, b"" if there is none. Where others are just reading, the old one."""
        if key not in self._values:
            self.watch(key)
        if time.monotonic() - self._read_at > max_age and self.is_shared and self._reading.acquire(blocking=False):
            try:
                self._read()
            except (redis.RedisError, OSError) as error:
                self.failed(error)
            finally:
                self._reading.release()
        return self._values.get(key, b"")

    def put(self, key: str, value: bytes) -> None:
        """What is known to be there now."""
        self._values[key] = value
        self._changed[key] = time.monotonic()

    def count(self, upstream: str, **counts: int) -> None:
        """Add to what this upstream did in the current minute; it is told with the next reading."""
        with self._counting:
            for name, number in counts.items():
                self._counts[upstream, name] += number

    def failed(self, error: Exception) -> None:
        """Redis can't be reached: go on without it for a while."""
        self._alone_until = time.monotonic() + WITHOUT_REDIS
        _log.warning("limits are not shared", error=type(error).__name__, seconds=WITHOUT_REDIS)

    def _read(self) -> None:
        begun, keys = time.monotonic(), list(self._values)
        with self._counting:
            counts, self._counts = self._counts, Counter()
        # All or nothing of what is counted: a connection that is lost in between must leave no key that stays for good.
        with self.client.pipeline(transaction=bool(counts)) as pipe:
            pipe.mget(keys)
            pipe.time()
            self._tell(pipe, counts)
            values, (seconds, microseconds), *_ = pipe.execute()
        self._read_at = time.monotonic()
        self._ahead = seconds + microseconds / 1e6 - self._read_at
        for key, value in zip(keys, values, strict=True):
            # What was just written is newer; what is watched no more stays away.
            if key in self._values and self._changed.get(key, float("-inf")) < begun:
                self._values[key] = value or b""

    def _tell(self, pipe: Any, counts: Counter[tuple[str, str]]) -> None:
        minute = int(self.now // 60)
        for (upstream, name), number in counts.items():
            pipe.hincrby(calls_key(self.namespace, upstream, minute), name, number)
        for upstream in {upstream for upstream, _ in counts}:
            pipe.expire(calls_key(self.namespace, upstream, minute), KEPT_MINUTES * 60)


def calls_key(namespace: str, upstream: str, minute: int) -> str:
    """Where the calls of one upstream in one minute (since 1970) are counted."""
    return f"{namespace}:calls:{upstream}:{minute}"
