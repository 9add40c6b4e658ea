"""What must hold after a storm: in Postgres, in Redis, in the workers, at the service."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import redis
import sqlalchemy as sa
from kombu.exceptions import OperationalError

from tests.chaos.audit import in_motion, left_in_redis
from tests.storms.asking import Asked
from tests.storms.installation import Installation, wait_until

LATE = 1.0
"""Seconds after its deadline that a question may be heard of on a machine that has much else to do."""
_SETTLES_WITHIN = 20.0
_ENDS_WITHIN = 30.0
"""A row that was written while Postgres went away, whose writer was told that it was not, is found by the sweep."""
_SHOWN = 3
_NOTES = """
CREATE TABLE storm_writes (question_id uuid, was text, became text, epoch integer, at timestamptz);
CREATE FUNCTION note_storm_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO storm_writes VALUES (NEW.id, OLD.status, NEW.status, NEW.epoch, clock_timestamp());
    RETURN NEW;
END $$;
CREATE TRIGGER storm_write AFTER UPDATE ON questions FOR EACH ROW EXECUTE FUNCTION note_storm_write();
"""

_OPEN = "SELECT id::text FROM questions WHERE status = 'queued'"

Row = dict[str, Any]


def note_writes(here: Installation) -> None:
    """From now on a trigger keeps each update of a question: of what was written twice both writings are seen."""
    with here.parts.engine.begin() as connection:
        connection.execute(sa.text(_NOTES))


def findings(here: Installation, asked: Sequence[Asked], timeout: float) -> list[str]:
    """All that is wrong, a line each; waits for what is still under way to settle."""
    checks: tuple[Callable[[], Iterator[str]], ...] = (
        lambda: _of_owners(asked, timeout),
        lambda: _of_workers(here),
        lambda: _of_messages(here),
        lambda: _of_rows(here, asked),
        lambda: _of_results(here, asked),
        lambda: left_in_redis(here.services.redis_url, here.parts.settings.namespace),
        lambda: _of_service(here),
    )
    return [finding for check in checks for finding in check()]


def wait_until_idle(here: Installation) -> None:
    """Until no ask worker has a task, waiting, reserved or running. Raises AssertionError where one keeps it."""
    wait_until(lambda: not _held(here), _SETTLES_WITHIN, "the workers still hold tasks")


def rows(here: Installation, statement: str, **values: object) -> list[Row]:
    """Rows of the ledger."""
    with here.parts.engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.text(statement), values).mappings()]


def _of_owners(asked: Sequence[Asked], timeout: float) -> Iterator[str]:
    """In time, with an answer that was streamed as it is on record, or an error that says something."""
    late = [one for one in asked if one.seconds > timeout + LATE]
    if late:
        longest = max(one.seconds for one in late)
        yield f"{len(late)} questions ended after their deadline of {timeout:g} s, the last after {longest:.1f} s"
    for one in asked:
        if one.is_denied:
            yield f"question {one.id} was told that its answer is not in the knowledge base"
        if one.error in ("Foreign", "InternalFault", "NoAnswer") or (one.error and not one.message):
            yield f"question {one.id} ended with {one.error}: {one.message}"
        if one.answer is not None and one.streamed != one.answer.text:
            yield f"question {one.id} was streamed as {one.streamed[:60]!r} and answered {one.answer.text[:60]!r}"


def _of_workers(here: Installation) -> Iterator[str]:
    if here.dead:
        yield f"workers died: {here.dead}"
    try:
        wait_until_idle(here)
    except AssertionError as error:
        yield f"{error}: {_held(here)}"


def _held(here: Installation) -> dict[str, list[str]]:
    """Tasks of ask workers by worker; one that doesn't answer holds itself."""
    names = [f"{member.name}@{socket.gethostname()}" for member in here.askers]
    # With a limit it does not wait for others that might answer.
    inspect = here.celery().control.inspect(destination=names, limit=len(names), timeout=5.0)
    try:
        found = [inspect.active() or {}, inspect.reserved() or {}, inspect.scheduled() or {}]
    except (
        redis.RedisError,
        OperationalError,
    ):  # this process's own, broken by a restart: the next one is new
        return {"nobody": ["was asked"]}
    held: dict[str, list[str]] = {}
    for member in here.askers:
        tasks = [_tasks(answers, member.name) for answers in found]
        kept = ["no answer"] if None in tasks else [name for names in tasks for name in names or ()]
        if kept:
            held[member.name] = kept
    return held


def _tasks(answers: dict[str, list[dict[str, Any]]], worker: str) -> list[str] | None:
    for name, tasks in answers.items():
        if name.startswith(f"{worker}@"):
            return [str(task.get("request", task)["id"]) for task in tasks]
    return None


def _of_messages(here: Installation) -> Iterator[str]:
    """Nothing waits in a queue, nothing lies unacknowledged; the sweep's own message comes and goes."""
    url, namespace = here.services.redis_url, here.parts.settings.namespace
    end = time.monotonic() + _SETTLES_WITHIN
    while left := in_motion(url, namespace):
        if time.monotonic() > end:
            yield f"messages are left: {left}"
            return
        time.sleep(0.2)


def _of_rows(here: Installation, asked: Sequence[Asked]) -> Iterator[str]:
    """Every question taken has one row with one end, written once, in time, that is what its owner was told."""
    end = time.monotonic() + _ENDS_WITHIN
    while (open_ := rows(here, _OPEN)) and time.monotonic() < end:
        time.sleep(0.5)
    if open_:
        yield f"{len(open_)} questions are open in Postgres, such as {[row['id'] for row in open_[:_SHOWN]]}"
    yield from _twice(here)
    ids = [one.id for one in asked if one.id]
    select = (
        "SELECT id::text, status, answer, error->>'code' AS code, extract(epoch FROM finished_at - deadline_at)::float8"
        " AS late FROM questions WHERE id = ANY(CAST(:ids AS uuid[]))"
    )
    known = {row["id"]: row for row in rows(here, select, ids=ids)}
    for one in asked:
        row = known.get(one.id)
        if row is None:
            if one.id:
                yield f"question {one.id} has no row"
            continue
        if one.answer is not None and (row["status"], row["answer"]) != ("done", one.answer.text):
            yield f"question {one.id} was answered, and is on record as {row['status']} {row['code']}"
        if one.error and row["status"] != "failed":
            yield f"question {one.id} ended with {one.error} ({one.message}), and is on record as {row['status']}"
        if row["late"] is not None and row["late"] > LATE:
            yield f"question {one.id} was recorded {row['late']:.1f} s after its deadline, as {row['status']}"


def _twice(here: Installation) -> Iterator[str]:
    """What was written to a row that had its end already, or a second end."""
    writes = (
        "SELECT question_id::text AS id, string_agg(was || '→' || became, ', ' ORDER BY at) AS ways FROM storm_writes "
        "GROUP BY question_id HAVING count(*) FILTER (WHERE became <> 'queued') > 1 "
        "OR count(*) FILTER (WHERE was IN ('done', 'failed')) > 0"
    )
    for row in rows(here, writes):
        if row["ways"].count("→cancelled") < 2:  # what a cancelled question had used is noted after its end
            yield f"question {row['id']} was recorded twice: {row['ways']}"
    timings = (
        "SELECT question_id::text AS id FROM stage_timings WHERE stage = 'record' AND error = '' "
        "GROUP BY 1 HAVING count(*) > 1"
    )
    for row in rows(here, timings):
        yield f"question {row['id']} was timed twice"


def _of_results(here: Installation, asked: Sequence[Asked]) -> Iterator[str]:
    """The result in Redis and the end of the stream say what the row says; both are for readers and may expire."""
    backend: Any = here.celery().backend
    for one in asked:
        if not one.id:
            continue
        status = backend.get_task_meta(one.id)["status"]
        wanted = "SUCCESS" if one.answer is not None else "FAILURE"
        if status not in (wanted, "PENDING"):
            yield f"question {one.id} has the result {status} in Redis, and its owner was told {wanted}"
    with redis.Redis.from_url(here.services.redis_url, decode_responses=True) as client:
        for one in asked:
            entries: Any = client.xrange(f"{here.parts.settings.namespace}:stream:{one.id}")
            ends = Counter(kind for _, fields in entries for kind in ("done", "error") if f'["{kind}"' in fields["e"])
            if len(ends) > 1:
                yield f"the stream of question {one.id} ends both ways: {dict(ends)}"


def _of_service(here: Installation) -> Iterator[str]:
    """No call is left open at the stand-in."""
    end = time.monotonic() + _SETTLES_WITHIN
    while (seen := here.services.standin.counters())["in_flight"] or seen["streams_open"]:
        if time.monotonic() > end:
            yield f"the service has {seen['in_flight']} calls and {seen['streams_open']} streams open"
            return
        time.sleep(0.1)
