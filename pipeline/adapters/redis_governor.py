"""The limits of one model, kept by all workers together: token buckets in Redis, by the clock of Redis.

A token bucket refills steadily and holds half a second's worth; a call takes from it, and may take what comes in within
the time it is ready to wait, so that waiting is in order and costs no second round trip (the "virtual scheduling" of
the generic cell rate algorithm, ITU-T I.371, annex A). Bulk work takes from a bucket of its own as well, which fills
with what is not reserved for people, takes nothing in advance, and leaves their share in the common one.

Half a second's worth, since services that enforce a limit by the second refuse what comes in bursts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import redis

from pipeline.adapters.redis_board import Board
from pipeline.governor import NOTHING_SEEN, Admission, Allowance, Lane, Limit

BURST_SECONDS = 0.5
LEARNED_FOR = 60.0
"""A limit that a service told of binds for so long after less than half of it was left."""
LOW = 0.5
PATIENCE = 10.0
"""Who is told to come again later than that has no place among those who were: nobody is to wait for who may not come.
"""

# So long does a bucket stay: what is owed must not be forgotten before it is paid.
_KEEP = """
local function keep(seconds)
  local longest = math.ceil((seconds + 60) * 1000)
  if redis.call('PTTL', KEYS[1]) < longest then redis.call('PEXPIRE', KEYS[1], longest) end
end
"""

# KEYS: bucket, gate. ARGV: lane, tokens, requests/min, tokens/min (0: none), burst s, share of people, longest wait s,
# whether it is the gate's probe, patience s (0: no place). Returns {moved, wait, later, gate}; the gate only where it
# moved.
_ADMIT = (
    _KEEP
    + """
local t = redis.call('TIME'); local now = t[1] + t[2] / 1000000
local bulk, longest = ARGV[1] == 'bulk', tonumber(ARGV[7])
local raw = redis.call('GET', KEYS[2])
if raw and ARGV[8] == '0' then
  local fine, gate = pcall(cjson.decode, raw)
  if fine and gate.opened_at == cjson.null and (gate.closures or 0) > 0 then return {1, '0', '0', raw} end
end
local queue = bulk and 'bulk_later' or 'later'
local known = redis.call('HMGET', KEYS[1], 'at', queue, 'requests', 'tokens', 'bulk_requests', 'bulk_tokens')
local since = now - (tonumber(known[1]) or now)
if since < 0 then  -- the clock of Redis was set back
  since = 0
  redis.call('HSET', KEYS[1], 'at', string.format('%.6f', now))
end
local share, burst, wait, pace, full = tonumber(ARGV[6]), tonumber(ARGV[5]), 0, 0, true
local levels = {}
local function look(name, held, per_minute, need, floor, least)
  if per_minute <= 0 then return end
  local rate = per_minute / 60
  local most = math.max(least, rate * burst)
  local level = math.min(most, (tonumber(held) or most) + since * rate)
  full = full and level >= most
  wait = math.max(wait, (math.min(need + floor * most, most) - level) / rate)
  pace = math.max(pace, need / rate)
  levels[#levels + 1] = {name, level, need, rate}
end
local requests, tokens, need = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[2])
local floor = bulk and share or 0
look('requests', known[3], requests, 1, floor, 1)
look('tokens', known[4], tokens, need, floor, 1)
if bulk then
  look('bulk_requests', known[5], requests * (1 - share), 1, 0, 1)
  look('bulk_tokens', known[6], tokens * (1 - share), need, 0, 1)
end
if wait > longest then
  local later, patience, last = now + wait, tonumber(ARGV[9]), tonumber(known[2]) or 0
  -- Who comes again comes after those who were told so before; what is later than any place was before the clock was
  -- set back.
  if patience > 0 and last <= now + patience then later = math.max(later, last + pace) end
  if later <= now + patience then
    redis.call('HSET', KEYS[1], queue, string.format('%.6f', later))
    keep(later - now)
  end
  -- Rather early than late: who is early waits in its place, and who is late has wasted what came in.
  return {0, '0', string.format('%.6f', math.max(later - now - longest, 0.05)), ''}
end
if full and known[2] then redis.call('HDEL', KEYS[1], queue) end  -- nobody of those who were told so is coming
local empty = 0
local set = {'at', string.format('%.6f', now)}
for _, level in ipairs(levels) do
  set[#set + 1] = level[1]
  set[#set + 1] = string.format('%.6f', level[2] - level[3])
  empty = math.max(empty, (level[3] - level[2]) / level[4])
end
redis.call('HSET', KEYS[1], unpack(set))
keep(empty)
return {0, string.format('%.6f', math.max(0, wait)), '0', ''}
"""
)

# KEYS: bucket. ARGV: lane, requests to give back, tokens to give back, requests/min, tokens/min, requests left,
# tokens left ('' where the service didn't say).
_SETTLE = (
    _KEEP
    + """
local t = redis.call('TIME'); local now = t[1] + t[2] / 1000000
if redis.call('EXISTS', KEYS[1]) == 0 then return end
local at = tonumber(redis.call('HGET', KEYS[1], 'at')) or now
local function correct(name, back, per_minute, left)
  local level = tonumber(redis.call('HGET', KEYS[1], name))
  if not level or per_minute <= 0 then return end
  level = level + back
  if left then level = math.min(level, left - math.max(0, now - at) * per_minute / 60) end
  redis.call('HSET', KEYS[1], name, string.format('%.6f', level))
  keep(-level / per_minute * 60)
end
local requests, tokens = tonumber(ARGV[4]), tonumber(ARGV[5])
correct('requests', tonumber(ARGV[2]), requests, tonumber(ARGV[6]))
correct('tokens', tonumber(ARGV[3]), tokens, tonumber(ARGV[7]))
if ARGV[1] == 'bulk' then
  correct('bulk_requests', tonumber(ARGV[2]), requests, nil)
  correct('bulk_tokens', tonumber(ARGV[3]), tokens, nil)
end
"""
)


class RedisLimiter:
    """The limits of one model and key. One round trip admits a call, and one settles it; none where nothing limits.

    ``name`` is ``<service>:<model>:<hash of the key>``.
    """

    def __init__(
        self,
        board: Board,
        name: str,
        gate_key: str,
        *,
        limit: Limit,
        share: float,
        burst: float = BURST_SECONDS,
        patience: float = PATIENCE,
    ) -> None:
        """``limit`` is what the settings say, ``share`` what bulk work leaves to people; so many seconds' worth may
        come at once. ``patience`` is for how long people wait at most.
        """
        self._board = board
        self._name = name
        self._bucket = bucket_key(board.namespace, name)
        self._gate = gate_key
        self._told = learned_key(board.namespace, name)
        self._set = limit
        self._share = share
        self._burst = burst
        self._patience: dict[Lane, float] = {"interactive": patience, "bulk": PATIENCE}
        self._admit = board.client.register_script(_ADMIT)
        self._settle = board.client.register_script(_SETTLE)
        self._noted = (0.0, Limit())

    @property
    def limit(self) -> Limit:
        """What binds now: the settings, and below them what the service said."""
        told = self._learned
        return lower(self._set, told) if told != Limit() else self._set

    @property
    def _learned(self) -> Limit:
        raw = self._board.get(self._told, 1.0)
        return learned(raw) if raw else Limit()

    def admit(self, lane: Lane, tokens: int, *, wait: float, probe: bool) -> Admission:
        """See :class:`pipeline.governor.Limiter`. Bulk work takes nothing in advance: its wait is always ``later``.
        Without time to ``wait``, as in ingest, it takes no place among those who come again: another may come instead.
        """
        limit = self.limit
        if limit == (None, None) or not self._board.is_shared:
            self._board.count(self._name, **{lane: 1, "tokens": tokens})
            return Admission(tokens=tokens)
        longest = 0.0 if lane == "bulk" else wait
        rates = (limit.requests or 0, limit.tokens or 0)
        patience = 0.0 if lane == "bulk" and not wait else self._patience[lane]
        arguments = [lane, tokens, *rates, self._burst, self._share, longest, int(probe), patience]
        try:
            answer: Any = self._admit(keys=[self._bucket, self._gate], args=arguments)
        except (redis.RedisError, OSError) as error:
            self._board.failed(error)
            return Admission(tokens=tokens)
        if answer[0]:
            self._board.put(self._gate, answer[3])
            return Admission(moved=True)
        if later := float(answer[2]):
            return Admission(later=later)
        self._board.count(self._name, **{lane: 1, "tokens": tokens})
        return Admission(wait=float(answer[1]), tokens=tokens, counted=True)

    def settle(
        self,
        lane: Lane,
        admission: Admission,
        used: int | None = None,
        seen: Mapping[str, Allowance] = NOTHING_SEEN,
        *,
        made: bool = True,
    ) -> None:
        """See :class:`pipeline.governor.Limiter`."""
        back = admission.tokens if not made else 0 if used is None else admission.tokens - used
        if back or not made:
            self._board.count(self._name, **{"tokens": -back, lane: int(made) - 1})
        self.learn(seen)
        try:
            if admission.counted and (back or not made or seen):
                self._correct(lane, int(not made), back, seen)
        except (redis.RedisError, OSError) as error:
            self._board.failed(error)

    def learn(self, seen: Mapping[str, Allowance]) -> None:
        """See :class:`pipeline.governor.Limiter`."""
        try:
            self._learn(seen)
        except (redis.RedisError, OSError) as error:
            self._board.failed(error)

    def most_tokens(self, lane: Lane) -> int | None:
        """Of one request of bulk work: what comes in at once beside the share of people."""
        tokens = self.limit.tokens
        if tokens is None or lane != "bulk":
            return None
        return max(1, int(tokens / 60 * self._burst * (1 - self._share)))

    def _correct(self, lane: Lane, unmade: int, back: int, seen: Mapping[str, Allowance]) -> None:
        limit = self.limit
        left = [seen[name].remaining if name in seen else "" for name in ("requests", "tokens")]
        arguments = [lane, unmade, back, limit.requests or 0, limit.tokens or 0, *left]
        self._settle(keys=[self._bucket], args=arguments)

    def _learn(self, seen: Mapping[str, Allowance]) -> None:
        """Note a limit of which little is left, for all workers; what is noted already is noted again in time."""
        low = {name for name, told in seen.items() if told.remaining < LOW * told.limit}
        if not low or not self._board.is_shared:
            return
        found = Limit(*(_bound(name, known, seen, low) for name, known in self._learned._asdict().items()))
        at, noted = self._noted
        if found == noted and self._board.now - at < LEARNED_FOR / 2:
            return
        self._noted = (self._board.now, found)
        raw = json.dumps(found).encode()
        self._board.client.set(self._told, raw, px=int(LEARNED_FOR * 1000))
        self._board.put(self._told, raw)


def _bound(name: str, known: float | None, seen: Mapping[str, Allowance], low: set[str]) -> float | None:
    """One limit to note: that of which little is left, or one that binds already, as the service names it now."""
    if name in low or (known is not None and name in seen):
        return seen[name].limit
    return known


def bucket_key(namespace: str, name: str) -> str:
    """Where what is left of the limits is kept."""
    return f"{namespace}:limit:{name}"


def learned_key(namespace: str, name: str) -> str:
    """Where the limits are kept that a service told of."""
    return f"{namespace}:told:{name}"


def learned(raw: bytes) -> Limit:
    """The limits under :func:`learned_key`."""
    return Limit(*json.loads(raw))


def lower(one: Limit, other: Limit) -> Limit:
    """What keeps both."""
    return Limit(_lower(one.requests, other.requests), _lower(one.tokens, other.tokens))


def _lower(one: float | None, other: float | None) -> float | None:
    known = [limit for limit in (one, other) if limit is not None]
    return min(known) if known else None
