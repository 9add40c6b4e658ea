"""A gate that all workers share: one key in Redis, changed by compare and set, by the clock of Redis."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import redis
import structlog

from pipeline.gate import Gate, LocalGateStore

T = TypeVar("T")

_SWAP = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
_TRIES = 50
_PAUSE = 0.001
_KEPT_SECONDS = 300.0
_WITHOUT_REDIS = 5.0

_log = structlog.get_logger(__name__)


class RedisGateStore:
    """The gate of one service and model. While Redis is down, this process has a gate of its own."""

    def __init__(self, client: redis.Redis, *, namespace: str, upstream: str, model: str) -> None:
        """The key is ``<namespace>:pace:<upstream>:<model>`` and goes away by itself."""
        self._client = client
        self._key = f"{namespace}:pace:{upstream}:{model}"
        self._swap = client.register_script(_SWAP)
        self._own = LocalGateStore()
        self._own_until = 0.0

    def change(self, transition: Callable[[Gate, float], tuple[Gate, T]]) -> T:
        """See :class:`pipeline.gate.GateStore`."""
        if time.monotonic() >= self._own_until:
            try:
                return self._shared(transition)
            except (redis.RedisError, OSError) as error:
                self._own_until = time.monotonic() + _WITHOUT_REDIS  # not every request is to wait for its time limit
                _log.warning("pace is not shared", error=type(error).__name__, seconds=_WITHOUT_REDIS)
        return self._own.change(transition)

    def _shared(self, transition: Callable[[Gate, float], tuple[Gate, T]]) -> T:
        for tries in range(_TRIES):
            if tries:
                time.sleep(random.uniform(0, tries * _PAUSE))
            raw, now = self._read()
            before = _decoded(raw)
            after, found = transition(before, now)
            if after == before or self._swapped(raw, after, now):
                return found
        raise redis.RedisError("changed by others all the time")

    def _read(self) -> tuple[bytes, float]:
        with self._client.pipeline(transaction=False) as pipe:
            pipe.get(self._key)
            pipe.time()
            raw, (seconds, microseconds) = pipe.execute()
        return raw or b"", seconds + microseconds / 1e6

    def _swapped(self, raw: bytes, gate: Gate, now: float) -> bool:
        kept = max(0.0, gate.closed_until - now) + _KEPT_SECONDS
        answer: Any = self._swap(keys=[self._key], args=[raw, json.dumps(asdict(gate)), int(kept * 1000)])
        return bool(answer)


def _decoded(raw: bytes) -> Gate:
    try:
        return Gate(**json.loads(raw)) if raw else Gate()
    except (ValueError, TypeError):
        return Gate()  # written by another version
