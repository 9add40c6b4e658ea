"""Follow a run to its end, through short outages of the services, and say what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from deploy.console.context import client_of
from deploy.console.interrupts import heed
from deploy.console.output import note, say, say_json
from deploy.console.pace import Pace, pause
from deploy.console.progress import MOST_FAILURES, Screen
from pipeline.errors import Cancelled, CeleriacError, InternalFault, from_json
from pipeline.types import Progress, Run
from pipeline.wiring import Parts

OPEN = ("discovering", "running")
"""States of a run that is not over."""
PATIENCE = 60.0
"""How long a service may be away, in seconds."""
LISTED_FAILURES = 1000
"""Failures that a summary for programs holds."""
# After so many seconds without movement the queues are looked at, and after a warning when it is still true.
_IDLE, _REPEAT = 8.0, 60.0


def watch(parts: Parts, run_id: str, *, quiet: bool, leave: bool = False) -> dict[str, Any]:
    """Follow a run to its end; Ctrl-C cancels it, or with ``leave`` only stops watching. Returns its summary."""
    heed()
    try:
        with Screen(quiet=quiet) as screen:
            return _follow(parts, run_id, screen)
    except KeyboardInterrupt:
        note(_left(run_id) if leave else _cancelled(parts, run_id))
        raise


def end_with(summary: dict[str, Any], *, as_json: bool) -> None:
    """Print what became of a run and end: exit status 1 unless all of it was done."""
    say_json(summary) if as_json else _print_summary(summary)
    raise typer.Exit(0 if summary["status"] == "done" and not summary["failed"] else 1)


def facts_of(run: Run, progress: Progress) -> dict[str, Any]:
    """A run and its counts, for programs."""
    return {
        "run": run.id,
        "kind": run.kind,
        "tenant": run.kb.tenant,
        "kb": run.kb.name,
        "status": run.status,
        "sources": progress.total,
        "waiting": progress.waiting,
        "indexed": progress.done,
        "unchanged": progress.unchanged,
        "failed": progress.failed,
        "pruned": run.pruned,
        "chunks": progress.chunks,
        "embedded": progress.embedded,
        "error": run.error,
    }


class Patience:
    """Bears the outage of a service for a while, and says so once."""

    def __init__(
        self,
        run_id: str,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        most: float = PATIENCE,
    ) -> None:
        """``most`` is in seconds of ``clock``."""
        self._run_id = run_id
        self._say = say
        self._clock = clock
        self._most = most
        self._since: float | None = None

    @contextmanager
    def bearing(self) -> Iterator[None]:
        """Swallow a retryable error within, unless that has been going on for too long."""
        try:
            yield
        except CeleriacError as error:
            if not error.retryable:
                raise
            self._suffer(error)
        else:
            if self._since is not None:
                self._say("It is back.")
            self._since = None

    def _suffer(self, error: CeleriacError) -> None:
        now = self._clock()
        if self._since is None:
            self._since = now
            self._say(f"{error.message} The run is not lost; waiting up to {self._most:.0f} s.")
        if now - self._since >= self._most:
            hint = f"Watch the run later: `manage.py runs watch {self._run_id}`."
            raise type(error)(error.message, hint, error.detail) from error


class Ears:
    """Looks whether workers listen, when nothing has moved for a while."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._seen: object = None
        self._due = 0.0

    def deaf(self, progress: object) -> list[str]:
        """A warning for each queue in which messages wait for nobody."""
        if progress != self._seen:
            self._seen, self._due = progress, time.monotonic() + _IDLE
        if time.monotonic() < self._due:
            return []
        from tasks import broker

        queues = [queue for queue in broker.queues(self._parts) if queue.is_deaf]
        self._due = time.monotonic() + (_REPEAT if queues else _IDLE)
        return [f"No worker listens to queue {queue.name!r}, {queue.waiting} messages wait." for queue in queues]


def _follow(parts: Parts, run_id: str, screen: Screen) -> dict[str, Any]:
    begun, pace, ears = time.monotonic(), Pace(), Ears(parts)
    patience = Patience(run_id, screen.say)
    while True:
        with patience.bearing():
            # In this order: the counts of a run that is over are final.
            run, progress = parts.runs.find(run_id), parts.runs.progress(run_id)
            pace.saw(time.monotonic(), progress.over)
            screen.show(progress, run.kind, pace.rate)
            _show_failures(parts, run_id, progress, screen)
            if run.status not in OPEN:
                return _summary(parts, run, progress, time.monotonic() - begun)
            for warning in ears.deaf(progress):
                screen.say(warning, "bold red")
        time.sleep(pause(time.monotonic() - begun))


def _show_failures(parts: Parts, run_id: str, progress: Progress, screen: Screen) -> None:
    # By number, not by time: what failed first may be committed last.
    if screen.wants_failures(progress.failed):
        screen.show_failures(parts.runs.failures(run_id, limit=MOST_FAILURES))


def _summary(parts: Parts, run: Run, progress: Progress, seconds: float) -> dict[str, Any]:
    failures = parts.runs.failures(run.id, limit=LISTED_FAILURES) if progress.failed else []
    return facts_of(run, progress) | {"seconds": round(seconds, 2), "failures": failures}


def _print_summary(summary: dict[str, Any]) -> None:
    say(
        f"{summary['indexed']:,} indexed, {summary['unchanged']:,} unchanged, {summary['failed']:,} failed, "
        f"{summary['pruned']:,} pruned · {summary['chunks']:,} chunks, {summary['embedded']:,} texts embedded · "
        f"{summary['seconds']:.1f} s"
    )
    run_id, more = summary["run"], summary["failed"] - MOST_FAILURES
    if more > 0:
        note(f"… and {more:,} more failed: `manage.py runs show {run_id} --failures {summary['failed']}`.")
    if summary["failed"]:
        note(f"Mend the cause, then `manage.py runs retry {run_id}` takes the failed ones again.")
    if summary["status"] == "cancelled":
        raise Cancelled(f"Run {run_id} was cancelled.", f"`manage.py runs resume {run_id}` goes on with it.")
    if summary["error"]:
        raise from_json(summary["error"])
    if summary["status"] == "failed":
        raise InternalFault(f"Run {run_id} failed.")


def _cancelled(parts: Parts, run_id: str) -> str:
    if client_of(parts).cancel_run(run_id):
        return f"Cancelled: what was indexed so far stays, `manage.py runs resume {run_id}` goes on with it."
    return f"Run {run_id} was over already: `manage.py runs show {run_id}`."


def _left(run_id: str) -> str:
    return f"No longer watching; the run goes on: `manage.py runs watch {run_id}`, `manage.py runs cancel {run_id}`."
