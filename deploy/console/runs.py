"""``runs``: what was ingested and how it went; cancel it, go on with it, take what failed once more."""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from typing import Annotated, Any, get_args

import typer

from deploy.console.asking import Tenant
from deploy.console.context import client_of, current_parts
from deploy.console.ids import SHOWN, of_tenant
from deploy.console.ingesting import Detach
from deploy.console.output import Json, note, say, say_json, say_table
from deploy.console.pace import duration
from deploy.console.progress import failure_line, stage_counts
from deploy.console.watching import end_with, facts_of, watch
from pipeline.errors import BadSettings, Conflict, NotFound, from_json
from pipeline.types import Failure, Run, RunStatus, RunSummary
from pipeline.wiring import Parts

RunId = Annotated[str, typer.Argument(metavar="ID", help="A run's id, 4 or more characters it begins with, or `last`.")]

_SHORTEST = 4
_STATUSES: tuple[RunStatus, ...] = get_args(RunStatus)


def add_to(app: typer.Typer) -> None:
    """Register the group of commands."""
    runs = typer.Typer(help="Ingest runs: list, show, watch, cancel, resume, retry.", no_args_is_help=True)
    runs.command("list")(runs_list)
    runs.command("show")(runs_show)
    runs.command("watch")(runs_watch)
    runs.command("cancel")(runs_cancel)
    runs.command("resume")(runs_resume)
    runs.command("retry")(runs_retry)
    app.add_typer(runs, name="runs")


def runs_list(
    tenant: Tenant = "default",
    status: Annotated[str, typer.Option("--status", help=f"Only those: {', '.join(_STATUSES)}.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """Runs, newest first, with how far they are."""
    if status not in ("", *_STATUSES):
        raise BadSettings(f"--status {status!r} is none.", f"It takes {', '.join(_STATUSES)}.")
    found = current_parts().runs.list(tenant, status, limit)
    if as_json:
        say_json(found)
        return
    columns = ("id", "kind", "kb", "status", "sources", "over", "failed", "begun", "took")
    say_table("", columns, [_row(summary) for summary in found])
    if not found:
        note(f"None: `manage.py ingest PATH{of_tenant(tenant)}` makes one.")
    if len(found) == limit:
        note(f"The newest {limit}; more with --limit.")


def runs_show(
    run_id: RunId,
    tenant: Tenant = "default",
    failures: Annotated[int, typer.Option("--failures", min=0, help="Failed sources to show.")] = 20,
    as_json: Json = False,
) -> None:
    """One run: options, stages, counts, and why sources failed."""
    parts = current_parts()
    run = parts.runs.find(find_id(parts, tenant, run_id))
    progress = parts.runs.progress(run.id)
    failed = parts.runs.failures(run.id, limit=failures) if failures else []
    stages = stage_counts(progress, run.kind)
    facts = facts_of(run, progress) | _times(parts, run)
    if as_json:
        say_json(facts | {"options": run.options, "stages": [vars(stage) for stage in stages], "failures": failed})
        return
    for key, value in (_described(run) | _readable(facts)).items():
        say(f"{key:<12} {value}")
    say()
    say_table("", ("stage", "wait", "through"), [[count.stage, count.waiting, count.through] for count in stages])
    _say_failures(failed, progress.failed)


def runs_watch(run_id: RunId, tenant: Tenant = "default", as_json: Json = False) -> None:
    """Follow a run to its end; Ctrl-C leaves it running. Exit status 1 if something failed."""
    parts = current_parts()
    end_with(watch(parts, find_id(parts, tenant, run_id), quiet=as_json, leave=True), as_json=as_json)


def runs_cancel(run_id: RunId, tenant: Tenant = "default", as_json: Json = False) -> None:
    """Stop a run: no further call of a model begins; what was indexed stays."""
    parts = current_parts()
    found = find_id(parts, tenant, run_id)
    if not client_of(parts).cancel_run(found):
        raise Conflict(f"Run {found} is over already.", f"See `manage.py runs show {found}`.")
    progress = parts.runs.progress(found)
    if as_json:
        say_json(facts_of(parts.runs.find(found), progress))
        return
    note(f"Cancelled with {progress.over:,} of {progress.total:,} sources over.")
    note(f"`manage.py runs resume {found}` goes on with it.")


def runs_resume(run_id: RunId, tenant: Tenant = "default", detach: Detach = False, as_json: Json = False) -> None:
    """Go on with a cancelled or failed run; Ctrl-C cancels it again."""
    parts = current_parts()
    found = find_id(parts, tenant, run_id)
    _go_on(parts, found, client_of(parts).resume_run(found), detach=detach, as_json=as_json)


def runs_retry(run_id: RunId, tenant: Tenant = "default", detach: Detach = False, as_json: Json = False) -> None:
    """Take the failed sources of a run once more, and only those; Ctrl-C cancels that."""
    parts = current_parts()
    found = find_id(parts, tenant, run_id)
    _go_on(parts, found, client_of(parts).retry_run(found), detach=detach, as_json=as_json)


def find_id(parts: Parts, tenant: str, text: str) -> str:
    """The id of a run from itself, its beginning or ``last``; raises NotFound, or BadSettings where it fits several."""
    if text == "last":
        newest = parts.runs.list(tenant, "", 1)
        if not newest:
            raise NotFound(f"Tenant {tenant!r} has no run.", f"`manage.py ingest PATH{of_tenant(tenant)}` makes one.")
        return newest[0].id
    if len(text) < _SHORTEST or not re.fullmatch(r"[0-9a-fA-F-]{1,36}", text):
        listed = f"`manage.py runs list{of_tenant(tenant)}`"
        hint = f"Give an id, {_SHORTEST} or more characters it begins with, or `last`; see {listed}."
        raise NotFound(f"{text[:60]!r} is no id of a run.", hint)
    try:
        return parts.runs.find(str(uuid.UUID(text))).id
    except ValueError:
        return _find_beginning(parts, tenant, text.lower())


def _find_beginning(parts: Parts, tenant: str, text: str) -> str:
    found = [run.id for run in parts.runs.matching(tenant, text)]
    if not found:
        hint = f"See `manage.py runs list{of_tenant(tenant)}`."
        raise NotFound(f"No run of tenant {tenant!r} begins with {text!r}.", hint)
    if len(found) > 1:
        raise BadSettings(f"{len(found)} runs begin with {text!r}.", f"Give more of it: {found[0]} or {found[1]}.")
    return found[0]


def _go_on(parts: Parts, run_id: str, sources: int, *, detach: bool, as_json: bool) -> None:
    if detach:
        say_json({"run": run_id, "sources": sources}) if as_json else say(run_id)
        return
    if not as_json:
        note(f"{sources:,} sources of run {run_id} go on.")
    end_with(watch(parts, run_id, quiet=as_json), as_json=as_json)


def _row(run: RunSummary) -> list[Any]:
    took = "" if run.finished_at is None else duration((run.finished_at - run.created_at).total_seconds())
    counts = [run.items, run.over, run.failed]
    return [run.id[:SHOWN], run.kind, run.kb, run.status, *counts, run.created_at, took]


def _times(parts: Parts, run: Run) -> dict[str, Any]:
    """When it was begun and ended."""
    (summary,) = parts.runs.matching(run.kb.tenant, run.id)
    return {"created_at": summary.created_at, "finished_at": summary.finished_at}


def _described(run: Run) -> dict[str, Any]:
    options = run.options.encode()
    return {
        "run": run.id,
        "kind": run.kind,
        "kb": f"{run.kb.name} of tenant {run.kb.tenant}: {run.kb.embedding_model} in {run.kb.store}",
        "status": run.status + (f": {from_json(run.error)}" if run.error else ""),
        **{key: ", ".join(value) if isinstance(value, list) else value for key, value in options.items()},
    }


def _readable(facts: dict[str, Any]) -> dict[str, str]:
    """Counts and times of a run."""
    times = {key: f"{value:%Y-%m-%d %H:%M:%S}" for key, value in facts.items() if isinstance(value, datetime)}
    return times | {key: f"{value:,}" for key, value in facts.items() if isinstance(value, int)}


def _say_failures(failed: list[Failure], count: int) -> None:
    if failed:
        say()
    for failure in failed:
        what = [failure.code, f"attempt {failure.attempt}", "retryable" if failure.retryable else "not retryable"]
        if failure.http_status is not None:
            what.insert(1, f"HTTP {failure.http_status}")
        say(failure_line(failure), style="red")
        say(f"    {' · '.join(what)}", style="dim")
    if len(failed) < count:
        note(f"{count - len(failed):,} more failed sources; see them with --failures {count}.")
