"""The part of ``status`` about caches: how much of what was asked for was there, and at which level."""

from __future__ import annotations

from typing import Any

from deploy.console.output import say_table
from pipeline.caching.caches import LEVELS, MISS, RESULTS
from pipeline.caching.flights import SHARED
from pipeline.errors import CeleriacError
from pipeline.wiring import Parts

_FOUND = (*LEVELS, SHARED)


def cache_rates_of(parts: Parts) -> list[dict[str, Any]]:
    """Of each result how often it was looked for in the last 24 hours, where it was found, and the share that was;
    nothing where Redis can't be reached. A better result ends the search for the lesser ones. ``shared``: another
    question that was being answered at that moment had it.
    """
    try:
        counts = parts.redis_cache.counts()
    except CeleriacError:
        return []
    return [rates(result, counts) for result in RESULTS]


def rates(result: str, counts: dict[str, int]) -> dict[str, Any]:
    """What was counted of one result, by level."""
    found = {level: counts.get(f"{result}:{level}", 0) for level in _FOUND}
    hits, misses = sum(found.values()), counts.get(f"{result}:{MISS}", 0)
    rate = hits / (hits + misses) if hits + misses else None
    return {"result": result, "asked": hits + misses, **found, "hit_rate": rate}


def print_cache_rates(rows: list[dict[str, Any]]) -> None:
    """A table, once something was asked for."""
    if not any(row["asked"] for row in rows):
        return
    say_table("\nCaches, the last 24 hours", ["", "asked", *_FOUND, "found"], [_row(row) for row in rows])


def _row(row: dict[str, Any]) -> list[Any]:
    rate = "–" if row["hit_rate"] is None else f"{row['hit_rate']:.0%}"
    return [*(row[name] for name in ("result", "asked", *_FOUND)), rate]
