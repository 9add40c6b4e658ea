"""``doctor``: does each part work, and what to do where it doesn't."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import typer

from deploy.console.context import client_of, current_parts
from deploy.console.output import Json, say, say_json, say_table
from pipeline.errors import BadSettings, CeleriacError, InternalFault, TimedOut, wrap
from pipeline.wiring import Parts

_OLDEST_REDIS = (6, 2)
_OLDEST_POSTGRES = 15


@dataclass(frozen=True)
class Check:
    """One part: is it all right, what was seen, how long that took, and what to do if it isn't."""

    name: str
    ok: bool
    detail: str
    ms: float
    hint: str = ""

    def row(self) -> dict[str, Any]:
        """For JSON and tables."""
        return asdict(self) | {"ms": round(self.ms, 1)}


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(doctor)


def doctor(as_json: Json = False) -> None:
    """Check every part, from Redis to a round trip through each queue; exit status 1 if one fails."""
    from rich.text import Text

    parts = current_parts()
    checks = [*check_services(parts), *_check_models(parts), *_check_queues(parts)]
    if as_json:
        say_json({"ok": all(check.ok for check in checks), "checks": [check.row() for check in checks]})
    else:
        marks = {True: Text("ok", style="green"), False: Text("FAILED", style="bold red")}
        say_table("", ["part", "", "ms", "seen"], [[c.name, marks[c.ok], round(c.ms, 1), c.detail] for c in checks])
        for check in checks:
            if not check.ok and check.hint:
                say(f"{check.name}: {check.hint}", style="yellow")
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


def check_services(parts: Parts) -> list[Check]:
    """Redis, Postgres with its schema, and the vector store."""
    return [
        _check("redis", lambda: _redis(parts)),
        _check("postgres", lambda: _postgres(parts)),
        _check("schema", lambda: _schema(parts)),
        _check(f"store: {parts.settings.store_name}", lambda: parts.store.check(timeout=5.0)),
    ]


def _check(name: str, look: Callable[[], str]) -> Check:
    begun = time.perf_counter()
    try:
        seen, hint, ok = look(), "", True
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding, not an end
        failure: CeleriacError = wrap(error)
        seen, hint, ok = failure.message, failure.hint, False
    return Check(name, ok, seen, (time.perf_counter() - begun) * 1000, hint)


def _redis(parts: Parts) -> str:
    from tasks.broker import reaching_redis

    with reaching_redis():
        server: Any = parts.redis.info("server")
        memory: Any = parts.redis.info("memory")
        persistence: Any = parts.redis.info("persistence")
    version = str(server["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_REDIS:
        raise BadSettings(f"Redis {version} is too old.", "Celeriac needs 6.2 or newer.")
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        hint = "Set maxmemory-policy to noeviction: a queue must not be evicted."
        raise BadSettings(f"Redis {version} may evict messages ({policy}).", hint)
    kept = "append-only file" if persistence.get("aof_enabled") else "no append-only file: a restart loses messages"
    return f"Redis {version}, {kept}"


def _postgres(parts: Parts) -> str:
    version, ctype = parts.schema.server()
    if int(version.split(".")[0]) < _OLDEST_POSTGRES:
        raise BadSettings(f"PostgreSQL {version} is too old.", f"Celeriac needs {_OLDEST_POSTGRES} or newer.")
    if ctype in ("C", "POSIX"):
        hint = "Create the database with LC_CTYPE C.UTF-8 (or any of UTF-8)."
        raise BadSettings(f"The database's character type is {ctype}: curly quotes stick to words.", hint)
    return f"PostgreSQL {version}"


def _schema(parts: Parts) -> str:
    found, needed = parts.schema.current_revision(), parts.schema.newest_revision()
    if found != needed:
        raise BadSettings(
            f"The schema is at revision {found}, this version needs {needed}.", "Run `manage.py migrate`."
        )
    return f"revision {found}"


def _check_models(parts: Parts) -> list[Check]:
    return [
        _check(f"embedder: {parts.settings.embedder_name}", lambda: _embedder(parts)),
        _check(f"generator: {parts.settings.generator_name}", lambda: _generator(parts)),
    ]


def _embedder(parts: Parts) -> str:
    found = parts.embedder.embed(["Is anybody there?"], timeout=parts.settings.embed_timeout)
    return f"{len(found.vectors[0])} dimensions"


def _generator(parts: Parts) -> str:
    from pipeline import prompts
    from pipeline.seams import GenerationRequest
    from pipeline.types import Passage

    passage = Passage(chunk_id="check", document_id="check", title="Check", text="Celeriac is a root vegetable.")
    question = "What is celeriac?"
    request = GenerationRequest(question=question, passages=(passage,), messages=prompts.render(question, (passage,)))
    text = "".join(d.text for d in parts.generator.stream(request, timeout=parts.settings.generate_timeout))
    if not text:
        raise InternalFault("It answered with nothing.", "Try another CELERIAC_CHAT_MODEL.")
    return f"{parts.generator.mode}, answers"


def _check_queues(parts: Parts) -> list[Check]:
    from celeryconfig import task_queues

    return [_check(f"queue: {queue.name}", partial(_round_trip, parts, queue.name)) for queue in task_queues]


def _round_trip(parts: Parts, queue: str) -> str:
    client_of(parts)
    from tasks import broker
    from tasks.app import app
    from tasks.control import CANARIES
    from tasks.results import wait_for

    start = f"Start one: the `{queue}` line of the Procfile."
    if not any(state.name == queue and state.consumers for state in broker.queues(parts)):
        raise InternalFault("No worker listens to it.", start)
    try:
        with broker.reaching_redis():
            sent = CANARIES[queue].apply_async((time.time(),), expires=30)
            waited = wait_for(app.backend, sent.id, timeout=5.0)
    except TimedOut:
        raise InternalFault("No worker answered in 5 s.", f"See the worker's log. {start}") from None
    return f"a worker answered; the message waited {waited * 1000:.0f} ms"
