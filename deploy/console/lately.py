"""The part of ``status`` about questions: how many were answered of late, how well, and what the others failed with."""

from __future__ import annotations

from collections.abc import Mapping

from deploy.console.output import say, say_table
from pipeline.errors import CeleriacError
from pipeline.types import RecentQuestions
from pipeline.wiring import Parts

SECONDS = 900.0


def recent_questions(parts: Parts) -> RecentQuestions | None:
    """Those of the last quarter of an hour; None where Postgres can't be asked."""
    try:
        return parts.recent.questions(SECONDS)
    except CeleriacError:
        return None


def print_recent(recent: RecentQuestions | None) -> None:
    """A table, and a line for what was not as it should be."""
    if recent is None:
        return
    columns = ["asked", "answered", "open", "failed", "cancelled", "p50 s", "p95 s", "tokens", "USD"]
    failed = sum(recent.failed.values())
    counts = [recent.asked, recent.done, recent.open, failed, recent.cancelled]
    times = [recent.p50_seconds, recent.p95_seconds]
    say_table(
        f"\nQuestions of the last {recent.seconds / 60:.0f} minutes",
        columns,
        [[*counts, *times, recent.tokens, f"{recent.cost_usd:.6f}"]],
    )
    if recent.degraded:
        say(f"Less than a full answer: {_listed(recent.degraded)}.", "yellow")
    if failed:
        say(f"Failed: {_listed(recent.failed)}.", "red")


def _listed(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count:,}" for name, count in ordered)
