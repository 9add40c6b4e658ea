"""The caches' second level: what all processes of an installation see at once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import redis
import structlog

from pipeline.adapters.redis_stream import translating

HOURS = 24
"""For which it is known what was found."""

_log = structlog.get_logger(__name__)


class RedisCache:
    """Keys are ``<namespace>:cache:<address>``, and ``<namespace>:cached:<hour>`` for the counts of an hour."""

    def __init__(self, client: redis.Redis, *, namespace: str, ttl: float) -> None:
        """Values live ``ttl`` seconds."""
        self._client = client
        self._prefix = f"{namespace}:cache:"
        self._counts = f"{namespace}:cached:"
        self._ttl = max(1, int(ttl * 1000))

    def get(self, addresses: Sequence[str]) -> list[bytes | None]:
        """See :class:`pipeline.caching.caches.Shared`."""
        try:
            found: Any = self._client.mget([self._prefix + address for address in addresses])
        except (redis.RedisError, OSError) as error:
            _failed("read", error)
            return [None] * len(addresses)
        return list(found)

    def put(self, values: Mapping[str, bytes]) -> None:
        """See :class:`pipeline.caching.caches.Shared`."""
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for address, value in values.items():
                    pipe.set(self._prefix + address, value, px=self._ttl)
                pipe.execute()
        except (redis.RedisError, OSError) as error:
            _failed("written", error)

    def count(self, counts: Mapping[str, int]) -> None:
        """See :class:`pipeline.caching.caches.Shared`."""
        key = f"{self._counts}{int(time.time() // 3600)}"
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for name, count in counts.items():
                    pipe.hincrby(key, name, count)
                pipe.expire(key, (HOURS + 1) * 3600)
                pipe.execute()
        except (redis.RedisError, OSError) as error:
            _failed("counted", error)

    def counts(self) -> dict[str, int]:
        """What was counted in the last :data:`HOURS`; raises where Redis can't be reached."""
        hour = int(time.time() // 3600)
        with translating(), self._client.pipeline(transaction=False) as pipe:
            for back in range(HOURS):
                pipe.hgetall(f"{self._counts}{hour - back}")
            hours: Any = pipe.execute()
        total: Counter[str] = Counter()
        for counted in hours:
            total.update({name.decode(): int(count) for name, count in counted.items()})
        return dict(total)


def _failed(what: str, error: Exception) -> None:
    _log.warning(f"the cache in Redis was not {what}", error=type(error).__name__)
