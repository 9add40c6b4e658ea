"""``up``, ``down``, ``status``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from deploy.console.cache_rates import cache_rates_of, print_cache_rates
from deploy.console.context import current_parts
from deploy.console.governing import print_upstreams, upstreams_of
from deploy.console.interrupts import heed
from deploy.console.lately import print_recent, recent_questions
from deploy.console.output import Json, note, say, say_json, say_table
from deploy.local.state import StackState, read_state
from pipeline import settings
from pipeline.errors import CeleriacError
from pipeline.settings import Settings
from pipeline.wiring import Parts

Workers = Annotated[int, typer.Option("--workers", min=1, max=64, help="Copies of each gevent worker.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(migrate)


def up(
    workers: Workers = 1,
    detach: Annotated[bool, typer.Option("--detach", help="Return once everything is ready.")] = False,
    as_json: Json = False,
) -> None:
    """Start Redis, Postgres, the workers and Flower; without --detach they stop with Ctrl-C.

    Services named by REDIS_URL, DATABASE_URL or WEAVIATE_URL are used, not started.
    """
    configured = settings.load()
    if detach:
        from deploy.local.detached import spawn_detached

        heed()
        spawn_detached(configured.home, workers)
        _say_up(configured, as_json)
        return
    from deploy.local.stack import up as start

    heed()
    stack = start(
        configured.home,
        workers=workers,
        environment=dict(os.environ),
        prepare=migrate_stack,
        ready=everyone_listens,
        on_event=note,
    )
    try:
        _say_up(configured, as_json)
        if not as_json:
            note("Ctrl-C stops everything.")
    except BaseException:
        stack.stop()
        raise
    stack.wait()


def down(as_json: Json = False) -> None:
    """Stop what `up` has started; workers finish what they hold."""
    from deploy.local.stack import down as stop

    was_up = stop(settings.load().home, on_event=note)
    say_json({"stopped": was_up}) if as_json else note("Stopped." if was_up else "Nothing was up.")


def status(as_json: Json = False) -> None:
    """Services, workers, queues, models and stores, and what became of the questions of the last quarter of an hour;
    what is wrong is shown in red. Exit status 1 if a service is down or a queue has no worker.
    """
    from tasks import runtime

    parts = current_parts()
    runtime.use(parts)
    services = _services(parts)
    workers, queues, wrong = _workers_and_queues(parts)
    healthy = not wrong and all(service["ok"] for service in services)
    upstreams, caches, recent = upstreams_of(parts), cache_rates_of(parts), recent_questions(parts)
    if as_json:
        seen = {"services": services, "workers": workers, "queues": queues, "upstreams": upstreams, "caches": caches}
        say_json({"healthy": healthy, **seen, "questions": recent})
    else:
        _print_status(services, workers, queues)
        print_upstreams(upstreams)
        print_cache_rates(caches)
        print_recent(recent)
    raise typer.Exit(0 if healthy else 1)


def migrate(as_json: Json = False) -> None:
    """Bring the schema of DATABASE_URL up to date; `up` does it by itself."""
    revision = current_parts().schema.migrate()
    say_json({"revision": revision}) if as_json else note(f"The schema is at revision {revision}.")


def migrate_stack(environment: Mapping[str, str]) -> None:
    """Bring the schema up to date, in the database that ``environment`` names."""
    parts = _parts_in(environment)
    try:
        parts.schema.migrate()
    finally:
        parts.close()


def everyone_listens(environment: Mapping[str, str]) -> bool:
    """Whether every queue has a worker that reports."""
    os.environ.update({name: environment[name] for name in ("REDIS_URL", "DATABASE_URL")})
    from tasks import broker

    parts = _parts_in(environment)
    try:
        return all(queue.consumers for queue in broker.queues(parts))
    except CeleriacError:
        return False
    finally:
        parts.close()


def _parts_in(environment: Mapping[str, str]) -> Parts:
    names = ("REDIS_URL", "DATABASE_URL")
    return Parts(settings.load(**{name: environment[name] for name in names}))


def _say_up(configured: Settings, as_json: bool) -> None:
    state = read_state(configured.home)
    if as_json:
        say_json(_stack_json(state))
        return
    say("Celeriac is up.", style="bold green")
    if state is not None and state.flower is not None:
        login = f" (user {state.flower.user}, password in {configured.home}/stack.json)" if state.flower.user else ""
        say(f"Flower: {state.flower.url}{login}")
    say("Next: python manage.py ingest PATH, then python manage.py ask QUESTION")


def _stack_json(state: StackState | None) -> dict[str, Any]:
    if state is None:
        return {"up": False}
    return {
        "up": state.ready,
        "services": [service.name for service in state.services],
        "processes": {name: process.pid for name, process in state.processes.items()},
        "flower": state.flower.url if state.flower else None,
    }


def _services(parts: Parts) -> list[dict[str, Any]]:
    from deploy.console.checking import check_services

    return [check.row() for check in check_services(parts)]


def _workers_and_queues(parts: Parts) -> tuple[list[dict[str, Any]], list[dict[str, Any]], bool]:
    from tasks import broker, heartbeat

    try:
        states = broker.queues(parts)
        workers = [report.model_dump(mode="json") for report in heartbeat.reports(parts)]
    except CeleriacError:
        return [], [], True
    queues = [{**state.model_dump(), "deaf": state.is_deaf} for state in states]
    return workers, queues, any(state.consumers == 0 for state in states)


def _print_status(services: list[dict[str, Any]], workers: list[dict[str, Any]], queues: list[dict[str, Any]]) -> None:
    from rich.text import Text

    marks = {True: Text("ok", style="green"), False: Text("DOWN", style="bold red")}
    say_table("Services", ["name", "", "seen"], [[s["name"], marks[s["ok"]], s["detail"]] for s in services])
    rows = [
        [w["name"], w["pool"], ",".join(w["queues"]), w["running"], w["stall_ms"], w["resident_mb"], _readiness(w)]
        for w in workers
    ]
    say_table("\nWorkers", ["name", "pool", "queues", "running", "longest stall ms", "resident MB", "ready"], rows)
    say_table("\nQueues", ["name", "waiting", "consumers"], [[q["name"], q["waiting"], q["consumers"]] for q in queues])
    for queue in queues:
        if queue["deaf"]:
            say(f"{queue['waiting']} messages wait in queue {queue['name']!r} and no worker listens to it.", "bold red")
        elif not queue["consumers"]:
            say(f"No worker listens to queue {queue['name']!r}.", "red")
    if not queues:
        note("Redis can't be reached, so workers and queues are unknown.")


def _readiness(worker: dict[str, Any]) -> str:
    """A worker reports once it is ready; what it could not have then, its first questions wait for."""
    return f"without {', '.join(worker['missing'])}" if worker["missing"] else "yes"
