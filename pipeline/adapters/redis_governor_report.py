"""What all workers know about the services, for operators: read from Redis in one go, without a word to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import redis

from pipeline.adapters.redis_board import calls_key
from pipeline.adapters.redis_governor import bucket_key, learned, learned_key, lower
from pipeline.adapters.redis_pace import decoded, gate_key
from pipeline.adapters.redis_stream import translating
from pipeline.governor import Limit, UpstreamReport

_READ = 4
"""Keys of one upstream."""


class Reported(NamedTuple):
    """One upstream: what it is, its name in keys (with the hash of its key), and its limit in the settings."""

    kind: str
    model: str
    service: str
    name: str
    limit: Limit


def report(client: redis.Redis, namespace: str, upstreams: Sequence[Reported]) -> list[UpstreamReport]:
    """One report for each of ``upstreams``, in their order."""
    with translating():
        seconds, microseconds = client.time()
        now = seconds + microseconds / 1e6
        with client.pipeline(transaction=False) as pipe:
            for one in upstreams:
                shared = f"{one.service}:{one.name}"
                pipe.get(gate_key(namespace, one.service, one.name))
                pipe.get(learned_key(namespace, shared))
                pipe.hgetall(bucket_key(namespace, shared))
                pipe.hgetall(calls_key(namespace, shared, int(now // 60)))
            found = pipe.execute()
    return [_reported(one, now, *found[_READ * n : _READ * (n + 1)]) for n, one in enumerate(upstreams)]


def _reported(
    one: Reported,
    now: float,
    raw_gate: bytes | None,
    told: bytes | None,
    bucket: Mapping[bytes, bytes],
    calls: Mapping[bytes, bytes],
) -> UpstreamReport:
    limit, gate = (lower(one.limit, learned(told)) if told else one.limit), decoded(raw_gate or b"")
    state = gate.state(now)
    shut: dict[str, Any] = {}
    if state != "closed":
        shut = {
            "since": round(gate.closed_at, 3),
            "retry_in": round(gate.shut_for(now), 3),
            "cause": gate.cause,
        }
    return UpstreamReport(
        kind=one.kind,
        service=one.service,
        model=one.model,
        breaker=state,
        faults=gate.faults,
        limit_requests=limit.requests,
        limit_tokens=limit.tokens,
        told=limit != one.limit,
        requests=int(calls.get(b"interactive", 0)) + int(calls.get(b"bulk", 0)),
        bulk_requests=int(calls.get(b"bulk", 0)),
        tokens=int(calls.get(b"tokens", 0)),
        waiting_seconds=round(max(0.0, float(bucket.get(b"later", 0)) - now), 3),
        **shut,
    )
