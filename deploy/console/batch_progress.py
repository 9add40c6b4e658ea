"""What a person sees of a batch of questions: while it is under way, and at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deploy.console.output import plain
from deploy.console.pace import duration, time_left
from pipeline.batch.result import Result
from pipeline.batch.tally import Tally

_BAR_WIDTH = 60


class Standing(NamedTuple):
    """How far a batch is. ``rate`` is in questions per second, None: unknown."""

    questions: int
    tally: Tally
    under_way: int
    rate: float | None


def headline(standing: Standing) -> str:
    """How far a batch is, in one line."""
    tally, rate = standing.tally, standing.rate
    left = time_left(standing.questions - tally.over, rate)
    median = tally.percentile(50)
    facts = [
        f"{tally.answered:,} of {standing.questions:,} answered",
        f"{tally.failed:,} failed" if tally.failed else "",
        f"{standing.under_way:,} under way",
        "" if rate is None else f"{rate:,.1f}/s",
        "" if median is None else f"p50 {median:.2f} s",
        f"{tally.tokens:,} tokens",
        money(tally),
        f"time left {'unknown' if left is None else duration(left)}",
    ]
    return " · ".join(fact for fact in facts if fact)


def bar(standing: Standing) -> Group:
    """A bar, and the headline below it."""
    grid = Table.grid()  # a bar by itself doesn't end its line
    grid.add_row(ProgressBar(total=max(standing.questions, 1), completed=standing.tally.over, width=_BAR_WIDTH))
    return Group(grid, Text(headline(standing), style="dim"))


def failure_line(result: Result) -> str:
    """A question that failed, in one line that a terminal can be trusted with."""
    error = result.error or {}
    line = f"failed: line {result.line}: {error.get('message', '')} {error.get('hint', '')}"
    return plain(line.rstrip()).replace("\n", " ").replace("\t", " ")


def summary_lines(summary: Mapping[str, Any], tally: Tally) -> list[str]:
    """What a batch came to."""
    p50, p95 = tally.percentile(50), tally.percentile(95)
    facts = [
        f"{tally.answered:,} answered, {tally.failed:,} failed, {summary['left']:,} left",
        f"{summary['earlier']:,} were there before" if summary["earlier"] else "",
        "" if p50 is None else f"p50 {p50:.2f} s, p95 {p95:.2f} s",
        f"{tally.tokens:,} tokens",
        money(tally),
        f"{summary['seconds']:.1f} s",
    ]
    found = [" · ".join(fact for fact in facts if fact)]
    for name, counts in (("outcomes", tally.outcomes), ("degraded", tally.degraded), ("failures", tally.failures)):
        if counts:
            found.append(f"{name}: " + ", ".join(f"{count:,} {what}" for what, count in counts.most_common()))
    return found


def money(tally: Tally) -> str:
    """What it cost, as far as prices are known."""
    unknown = f" and {tally.unpriced:,} of unknown price" if tally.unpriced else ""
    return f"${tally.cost_usd:.4f}{unknown}"
