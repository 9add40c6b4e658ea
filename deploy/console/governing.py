"""The part of ``status`` about models and stores: circuit breakers, limits, and what of them is used."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from deploy.console.output import say, say_table
from pipeline.errors import CeleriacError
from pipeline.wiring import Parts


def upstreams_of(parts: Parts) -> list[dict[str, Any]]:
    """How it stands with each service that a question calls; nothing where Redis can't be reached."""
    try:
        return [report.model_dump(mode="json") for report in parts.upstreams.report()]
    except CeleriacError:
        return []


def print_upstreams(upstreams: list[dict[str, Any]]) -> None:
    """A table, and in red what is not called now."""
    if not upstreams:
        return
    columns = ["", "model", "breaker", "requests", "tokens", "wait s"]
    say_table("\nModels and stores, this minute", columns, [_row(upstream) for upstream in upstreams])
    for upstream in upstreams:
        if upstream["breaker"] != "closed":
            since = datetime.fromtimestamp(upstream["since"]).astimezone()
            cause = f": {upstream['cause']}" if upstream["cause"] else "."
            say(f"{upstream['kind']} {upstream['model']} is not called since {since:%H:%M:%S}{cause}", "red")


def _row(upstream: dict[str, Any]) -> list[Any]:
    return [
        *(upstream[name] for name in ("kind", "model", "breaker")),
        _used(upstream["requests"], upstream["limit_requests"], upstream["told"]),
        _used(upstream["tokens"], upstream["limit_tokens"], upstream["told"]),
        round(upstream["waiting_seconds"], 1),
    ]


def _used(count: int, limit: float | None, told: bool) -> str:
    """A limit that the service named is marked."""
    mark = "*" if told else ""
    return f"{count:,}" if limit is None else f"{count:,} / {limit:,.0f}{mark}"
