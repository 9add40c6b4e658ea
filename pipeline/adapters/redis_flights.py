"""Which questions are being answered for others as well, in Redis.

``flight:<address>`` names the leader and when its time is over, ``leads:<leader>`` the flight, ``behind:<leader>`` is
the list of those that follow, and ``follows:<follower>`` names the leader. All of them end with their question's time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import redis
import structlog

from pipeline.adapters.redis_stream import translating
from pipeline.caching.flights import Claim, Follower, Standing

# KEYS: what is kept of answer, passages and vector; flight, leads, follows.
# ARGV: id, deadline, time to live in ms, seconds of patience, prefix of `behind`, the follower, whether it is new.
_LOOK = """
local kept = redis.call('MGET', KEYS[1], KEYS[2], KEYS[3])
local flight = redis.call('GET', KEYS[4])
local leader, ends
if flight then leader, ends = string.match(flight, '^(%S+) (%S+)$') end
if ARGV[7] == '0' then redis.call('DEL', KEYS[6]) end
-- It may be delivered again, and those behind it wait for it even where a shorter one leads those who come now.
if leader == ARGV[1] or redis.call('EXISTS', KEYS[5]) == 1 then return {kept[1], kept[2], kept[3], ARGV[1]} end
if kept[1] then return {kept[1], kept[2], kept[3], false} end
if not leader then
  redis.call('SET', KEYS[4], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
  redis.call('SET', KEYS[5], KEYS[4], 'PX', ARGV[3])
  return {kept[1], kept[2], kept[3], ARGV[1]}
end
if tonumber(ends) > tonumber(ARGV[2]) + tonumber(ARGV[4]) then  -- this one ends sooner: who comes now follows it
  redis.call('SET', KEYS[4], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
  redis.call('SET', KEYS[5], KEYS[4], 'PX', ARGV[3])
  return {kept[1], kept[2], kept[3], ARGV[1]}
end
local behind = ARGV[5] .. leader
redis.call('RPUSH', behind, ARGV[6])
redis.call('PEXPIRE', behind, ARGV[3])
redis.call('SET', KEYS[6], leader, 'PX', ARGV[3])
return {false, false, false, leader}
"""
# KEYS: leads, behind, and where values are kept. ARGV: id, time to live in ms, and the values. Who comes after this
# finds the answer or no flight, and so is in no list that nobody reads again.
_LAND = """
for place = 3, #KEYS do redis.call('SET', KEYS[place], ARGV[place], 'PX', ARGV[2]) end
local flight = redis.call('GET', KEYS[1])
if flight then
  local value = redis.call('GET', flight)
  if value and string.sub(value, 1, #ARGV[1]) == ARGV[1] then redis.call('DEL', flight) end
end
local followers = redis.call('LRANGE', KEYS[2], 0, -1)
redis.call('DEL', KEYS[1], KEYS[2])
return followers
"""
_PATIENCE = 1.0
"""Seconds that a leader may take longer than a question that follows it has."""

_log = structlog.get_logger(__name__)


class RedisFlights:
    """See :class:`pipeline.caching.flights.Flights`."""

    def __init__(self, client: redis.Redis, *, namespace: str) -> None:
        """Keys begin with ``<namespace>:cache:``, as those of what is kept do."""
        self._client = client
        self._prefix = f"{namespace}:cache:"
        self._look = client.register_script(_LOOK)
        self._land = client.register_script(_LAND)

    def look(self, addresses: Sequence[str], claim: Claim) -> tuple[list[bytes | None], Standing]:
        """See :class:`pipeline.caching.flights.Flights`."""
        follower, name = claim.follower, claim.follower.question_id
        keys = [*addresses, f"flight:{claim.flight}", f"leads:{name}", f"follows:{name}"]
        try:
            found: Any = self._look(
                keys=[self._prefix + key for key in keys],
                args=[
                    name,
                    repr(claim.deadline),
                    max(1, int(claim.ttl * 1000)),
                    _PATIENCE,
                    f"{self._prefix}behind:",
                    follower.model_dump_json(),
                    int(follower.epoch == 0),
                ],
            )
        except (redis.RedisError, OSError) as error:
            _failed(error)
            return [None] * len(addresses), Standing(leads=True, leader=name)  # the script may have run all the same
        *values, leader = found
        if leader is None:
            return values, Standing()
        return values, Standing(leads=leader.decode() == name, leader=leader.decode())

    def land(self, question_id: str, values: Mapping[str, bytes], ttl: float) -> list[Follower]:
        """See :class:`pipeline.caching.flights.Flights`."""
        keys = [f"leads:{question_id}", f"behind:{question_id}", *values]
        args: list[Any] = [question_id, max(1, int(ttl * 1000)), *values.values()]
        try:
            found: Any = self._land(keys=[self._prefix + key for key in keys], args=args)
        except (redis.RedisError, OSError) as error:
            _failed(error)
            return []
        last = {follower.question_id: follower for follower in map(Follower.model_validate_json, found)}
        return list(last.values())

    def leaders(self, question_ids: Sequence[str]) -> dict[str, str]:
        """See :class:`pipeline.caching.flights.Flights`."""
        if not question_ids:
            return {}
        with translating():
            found: Any = self._client.mget([f"{self._prefix}follows:{name}" for name in question_ids])
        return {name: leader.decode() for name, leader in zip(question_ids, found, strict=True) if leader}


def _failed(error: Exception) -> None:
    _log.warning("equal questions are not joined", error=type(error).__name__)
