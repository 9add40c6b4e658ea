"""What each tenant has spent today, in Redis."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import redis
import structlog

from pipeline.budget import Spent

KEPT_SECONDS = 3 * 86_400

_ADD = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HINCRBYFLOAT', KEYS[1], 'usd', ARGV[1])
redis.call('HINCRBY', KEYS[1], 'tokens', ARGV[2])
return 1
"""
# The larger of what is there and what is given: what was counted while the rows were added up is not lost.
_REMEMBER = """
local known = redis.call('HMGET', KEYS[1], 'usd', 'tokens')
redis.call('HSET', KEYS[1], 'usd', tostring(math.max(tonumber(known[1]) or 0, tonumber(ARGV[1]))),
  'tokens', string.format('%d', math.max(tonumber(known[2]) or 0, tonumber(ARGV[2]))))
redis.call('EXPIRE', KEYS[1], ARGV[3])
"""

_log = structlog.get_logger(__name__)


class RedisSpendingCounter:
    """One hash per tenant and day: ``<namespace>:spent:<day>:<tenant>``."""

    def __init__(self, client: redis.Redis, *, namespace: str) -> None:
        """Keys outlive their day by two."""
        self._client = client
        self._namespace = namespace
        self._add = client.register_script(_ADD)
        self._remember = client.register_script(_REMEMBER)

    def spent(self, tenant: str, day: datetime) -> Spent | None:
        """See :class:`pipeline.budget.SpendingCounter`."""
        try:
            usd, tokens = self._client.hmget(self._key(tenant, day), ["usd", "tokens"])
        except (redis.RedisError, OSError) as error:
            _failed(error)
            return None
        return None if usd is None or tokens is None else Spent(float(usd), int(tokens))

    def add(self, tenant: str, day: datetime, spent: Spent) -> bool:
        """See :class:`pipeline.budget.SpendingCounter`."""
        try:
            done: Any = self._add(keys=[self._key(tenant, day)], args=[repr(spent.usd), spent.tokens])
        except (redis.RedisError, OSError) as error:
            _failed(error)
            return False
        return bool(done)

    def remember(self, tenant: str, day: datetime, spent: Spent) -> None:
        """See :class:`pipeline.budget.SpendingCounter`."""
        try:
            self._remember(keys=[self._key(tenant, day)], args=[repr(spent.usd), spent.tokens, KEPT_SECONDS])
        except (redis.RedisError, OSError) as error:
            _failed(error)

    def _key(self, tenant: str, day: datetime) -> str:
        return f"{self._namespace}:spent:{day:%Y-%m-%d}:{tenant}"


def _failed(error: Exception) -> None:
    _log.warning("spending is not counted in Redis", error=type(error).__name__)
