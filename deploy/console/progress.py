"""What a person sees of a run under way: bars on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, get_args

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deploy.console.output import err, note, out, plain
from deploy.console.pace import duration, time_left
from pipeline.types import Failure, IngestStage, Progress, RunKind

MOST_FAILURES = 20
"""Failures that are shown as they come; of the others only the number."""
LINE_EVERY = 10.0
"""Seconds between two lines where nobody watches."""
_BAR_WIDTH = 32
_STAGES: tuple[IngestStage, ...] = get_args(IngestStage)


@dataclass(frozen=True)
class StageCount:
    """How many sources of a run wait for a stage, and how many have it behind them."""

    stage: IngestStage
    waiting: int
    through: int


def stage_counts(progress: Progress, kind: RunKind = "ingest") -> list[StageCount]:
    """The stages of a run in their order; one that builds a second index has the last two only."""
    found, through = [], progress.total
    for stage in _STAGES if kind == "ingest" else _STAGES[_STAGES.index("embed") :]:
        waiting = progress.waiting.get(stage, 0)
        through -= waiting
        found.append(StageCount(stage, waiting, through))
    return found


def headline(progress: Progress, rate: float | None) -> str:
    """How far a run is, in one line. ``rate`` is in documents per second, None: unknown."""
    left = time_left(progress.total - progress.over, rate)
    facts = [
        f"{progress.over:,} of {progress.total:,} sources",
        f"{progress.failed:,} failed" if progress.failed else "",
        "" if rate is None else f"{rate:,.1f}/s",
        f"time left {'unknown' if left is None else duration(left)}" if progress.over < progress.total else "finishing",
        f"{progress.chunks:,} chunks",
        f"{progress.embedded:,} texts embedded",
    ]
    return " · ".join(fact for fact in facts if fact)


def waiting_line(progress: Progress, kind: RunKind = "ingest") -> str:
    """Where the sources that are not over are."""
    return ", ".join(f"{count.stage} {count.waiting:,}" for count in stage_counts(progress, kind) if count.waiting)


def failure_line(failure: Failure) -> str:
    """One failed source in one line that a terminal can be trusted with: stage, document, what, what to do."""
    line = f"failed at {failure.stage or '?'}: {failure.document}: {failure.message} {failure.hint}"
    return plain(line.rstrip()).replace("\n", " ").replace("\t", " ")


def bars(progress: Progress, kind: RunKind, rate: float | None) -> Group:
    """A bar for each stage, and the headline below them."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column()
    grid.add_column()
    grid.add_column(justify="right")
    grid.add_column(justify="right")
    for count in stage_counts(progress, kind):
        bar = ProgressBar(total=max(progress.total, 1), completed=count.through, width=_BAR_WIDTH)
        grid.add_row(count.stage, bar, f"{count.through:,} through", f"{count.waiting:,} wait")
    return Group(grid, Text(headline(progress, rate), style="dim"))


class Screen:
    """Shows a run while entered: all the time on a terminal, every ten seconds in a log, nothing if ``quiet``."""

    def __init__(self, *, quiet: bool) -> None:
        """Shows nothing before it is entered."""
        self.quiet = quiet
        self._live = None if quiet or not err.is_terminal else _live()
        self._said = time.monotonic()
        self._failures: set[int] = set()

    def __enter__(self) -> Self:
        """Take the last lines of the terminal."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give them back."""
        if self._live is not None:
            self._live.stop()

    def wants_failures(self, failed: int) -> bool:
        """Whether some of so many failures weren't shown yet, and there is room for them."""
        return not self.quiet and len(self._failures) < min(failed, MOST_FAILURES)

    def show(self, progress: Progress, kind: RunKind, rate: float | None) -> None:
        """How far the run is now."""
        waiting = waiting_line(progress, kind)
        line = headline(progress, rate) + (f" · waiting: {waiting}" if waiting else "")
        self.paint(bars(progress, kind, rate), line)

    def paint(self, picture: Group, line: str) -> None:
        """The picture on a terminal, and the line now and then in a log."""
        if self._live is not None:
            self._live.update(picture, refresh=True)
        elif not self.quiet and time.monotonic() - self._said >= LINE_EVERY:
            note(line)
            self._said = time.monotonic()

    def show_failures(self, failures: Iterable[Failure]) -> None:
        """A line for each that wasn't shown before, as long as there is room."""
        # Two consoles on one terminal would write into each other's lines.
        console = err if self._live is not None and out.is_terminal else out
        for failure in [] if self.quiet else failures:
            if len(self._failures) < MOST_FAILURES and failure.number not in self._failures:
                self._failures.add(failure.number)
                console.print(Text(failure_line(failure), style="red"))

    def say(self, text: str, style: str = "dim") -> None:
        """One line beside the progress."""
        if not self.quiet:
            err.print(Text(plain(text), style=style))


def _live() -> Live:
    # Redirected, what goes to standard output would end up on standard error.
    return Live(console=err, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
