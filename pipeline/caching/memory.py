"""The first level: what this process has seen lately."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_OVERHEAD = 450
"""Bytes that an entry takes beside its value, roughly."""


class Memory:
    """Keeps what was used last, up to a number of bytes and for a while; safe to share between threads."""

    def __init__(self, max_bytes: int, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``ttl`` in seconds counts from :meth:`put`; where either is 0 nothing is kept."""
        self._max_bytes = max_bytes if ttl > 0 else 0
        self._ttl = ttl
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._size = 0

    def get(self, key: str) -> bytes | None:
        """The value, unless it is gone or too old."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry[0] <= self._clock():
                self._drop(key)
                return None
            self._entries.move_to_end(key)
            return entry[1]

    def put(self, key: str, value: bytes) -> None:
        """Keep a value, and let go of those that were not used for longest."""
        with self._lock:
            if key in self._entries:
                self._drop(key)
            self._entries[key] = (self._clock() + self._ttl, value)
            self._size += len(value) + _OVERHEAD
            while self._size > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        _, value = self._entries.pop(key)
        self._size -= len(value) + _OVERHEAD
