"""A gate that all workers share: one key in Redis, changed by compare and set, by the clock of Redis."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, TypeVar

import redis

from pipeline.adapters.redis_board import Board
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
_FIELDS = frozenset(field.name for field in fields(Gate))


class _Contended(Exception):
    """Others changed it all the time."""


class RedisGateStore:
    """The gate of one service and model. While Redis is down, this process has a gate of its own."""

    def __init__(
        self, client: redis.Redis, *, namespace: str, upstream: str, model: str, board: Board | None = None
    ) -> None:
        """The key is ``<namespace>:pace:<upstream>:<model>`` and goes away by itself; ``board`` is the process's."""
        self.key = gate_key(namespace, upstream, model)
        self._client = client
        self._board = board or Board(client, namespace=namespace)
        self._swap = client.register_script(_SWAP)
        self._own = LocalGateStore()
        self._decoded = (b"", Gate())

    def change(self, transition: Callable[[Gate, float], tuple[Gate, T]]) -> T:
        """See :class:`pipeline.gate.GateStore`."""
        if self._board.is_shared:
            try:
                return self._shared(transition)
            except _Contended:
                pass  # Redis is there, and the others see to the gate
            except (redis.RedisError, OSError) as error:
                self._board.failed(error)
        return self._own.change(transition)

    def look(self, max_age: float) -> tuple[Gate, float]:
        """See :class:`pipeline.gate.GateStore`."""
        raw = self._board.get(self.key, max_age)
        if not self._board.is_shared:
            return self._own.look(max_age)
        if raw != self._decoded[0]:
            self._decoded = (raw, decoded(raw))
        return self._decoded[1], self._board.now

    def _shared(self, transition: Callable[[Gate, float], tuple[Gate, T]]) -> T:
        for tries in range(_TRIES):
            if tries:
                time.sleep(random.uniform(0, tries * _PAUSE))
            raw, now = self._read()
            before = decoded(raw)
            after, found = transition(before, now)
            if after == before or self._swapped(raw, after, now):
                return found
        raise _Contended

    def _read(self) -> tuple[bytes, float]:
        with self._client.pipeline(transaction=False) as pipe:
            pipe.get(self.key)
            pipe.time()
            raw, (seconds, microseconds) = pipe.execute()
        self._board.put(self.key, raw or b"")
        return raw or b"", seconds + microseconds / 1e6

    def _swapped(self, raw: bytes, gate: Gate, now: float) -> bool:
        kept = gate.shut_for(now) + _KEPT_SECONDS
        after = json.dumps(asdict(gate)).encode()
        answer: Any = self._swap(keys=[self.key], args=[raw, after, int(kept * 1000)])
        if answer:
            self._board.put(self.key, after)
        return bool(answer)


def gate_key(namespace: str, upstream: str, model: str) -> str:
    """Where a gate is kept."""
    return f"{namespace}:pace:{upstream}:{model}"


def decoded(raw: bytes) -> Gate:
    """A gate as it lies in Redis, without what only a newer release knows of; a new one for what can't be read."""
    try:
        return Gate(**{name: value for name, value in json.loads(raw).items() if name in _FIELDS}) if raw else Gate()
    except (ValueError, TypeError, AttributeError):
        return Gate()
