"""A question that one worker takes from stage to stage: what is seen of it, and what becomes of it when that fails."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from pipeline.ask import flow
from pipeline.errors import Cancelled, ModelNotFound
from pipeline.types import KnowledgeBase, Question
from pipeline.wiring import Parts
from tests.installation import answer_of, eventually
from tests.standin.fixture import StandInProcess
from tests.workers import WorkerProcess

if TYPE_CHECKING:
    from tasks.client import Client

pytestmark = [
    pytest.mark.usefixtures("worker", "standin"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery's result backend
]
DONE = ["received", "started", "succeeded"]
answered = partial(answer_of, within=30.0)


class Events:
    """What Flower hears: events of tasks."""

    def __init__(self) -> None:
        self.connection: Any = None
        self.seen: list[dict[str, Any]] = []

    def drain(self) -> int:
        """Take what has come; how many events there are by now."""
        with contextlib.suppress(TimeoutError):
            self.connection.drain_events(timeout=0.5)
        return len(self.seen)

    def of(self, question: Question) -> dict[str, list[str]]:
        """Those of its tasks that have come by now, by task and in their order."""
        self.drain()
        events = [event for event in self.seen if str(event.get("uuid", "")).startswith(question.id)]
        names = {event["uuid"]: event["name"] for event in events if event["type"] == "task-received"}
        by_task: dict[str, list[str]] = {name: [] for name in names.values()}
        for event in events:
            by_task[names[event["uuid"]]].append(event["type"].removeprefix("task-"))
        return by_task

    def once(self, question: Question, task: str, kind: str) -> dict[str, list[str]]:
        """The same, once a task of it has said so."""
        return eventually(lambda: seen if kind in (seen := self.of(question)).get(task, ()) else {})


@pytest.fixture
def events(app: Any) -> Iterator[Events]:
    heard = Events()
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": heard.seen.append})
        with receiver.consumer_context(wakeup=False) as (heard.connection, _channel, _consumers):
            eventually(heard.drain)  # a worker says that it lives: the subscription holds
            yield heard


@pytest.fixture
def other(
    app: Any, worker: WorkerProcess, environment: Mapping[str, str], parts: Parts, tmp_path: Path
) -> Iterator[WorkerProcess]:
    """A worker that answers alone until it is gone."""
    app.control.cancel_consumer("ask", destination=[worker.name], reply=True)
    name = f"other-{os.getpid()}"
    other = WorkerProcess(environment, tmp_path / "other.log", name=name, queues="ask")
    try:
        other.wait_until_ready()
        yield other
    finally:
        other.kill()
        take_over(app, worker)


def take_over(app: Any, worker: WorkerProcess) -> None:
    app.control.add_consumer("ask", destination=[worker.name], reply=True)


def submit(client: Client, kb: KnowledgeBase) -> Question:
    question = client.question("Where does the river Volga flow?", kb=kb.name, timeout=40)
    client.submit(question)
    return question


def messages(parts: Parts, question: Question) -> list[str]:
    """Tasks of the question that a worker or a queue holds a message of."""
    from tasks import recovery

    ids = [json.loads(message)["headers"]["id"] for message in recovery._messages(parts)]
    return [found for found in ids if found.startswith(question.id)]


@pytest.fixture
def held_guard(parts: Parts) -> Iterator[Callable[[], None]]:
    """The first stage of every question waits until this is called, and so does a worker that starts."""
    with parts.engine.connect() as connection:
        connection.execute(sa.text("LOCK TABLE knowledge_bases IN ACCESS EXCLUSIVE MODE"))
        yield connection.rollback


def test_each_stage_is_a_task_with_events_of_its_own(
    client: Client, parts: Parts, facts: KnowledgeBase, events: Events
) -> None:
    question = submit(client, facts)
    answered(client, question)
    seen = events.once(question, "ask.record", "succeeded")
    assert seen == {f"ask.{name}": DONE for name in flow.stages(parts)}
    assert list(seen) == [f"ask.{name}" for name in flow.stages(parts)]


def test_until_it_is_recorded_the_message_that_began_it_is_held_and_no_other(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    standin.configure(held=True)
    question = submit(client, facts)
    standin.wait_for(lambda seen: seen["streams_open"] == 1)
    assert messages(parts, question) == [f"{question.id}.guard"]
    standin.configure()
    answer = answered(client, question)
    waits = {timing.stage: timing.queue_ms for timing in answer.timings}
    assert max(waits[name] for name in waits if name != "guard") < 3000
    eventually(lambda: not messages(parts, question))


def test_a_worker_tells_what_it_runs_without_what_was_asked(
    app: Any, client: Client, facts: KnowledgeBase, standin: StandInProcess, worker: WorkerProcess
) -> None:
    standin.configure(held=True)
    question = submit(client, facts)
    standin.wait_for(lambda seen: seen["streams_open"] == 1)
    running = app.control.inspect(destination=[worker.name], limit=1, timeout=20.0).active()
    (told,) = [task for task in running[worker.name] if task["id"] == f"{question.id}.generate"]
    assert (told["name"], told["args"]) == ("ask.generate", "(…)")
    client.cancel(question.id)


def test_a_reply_that_nobody_waits_for_any_more_does_not_stay_in_redis(app: Any, parts: Parts) -> None:
    import celeryconfig

    mailbox = app.control.mailbox
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        queue = mailbox.reply_queue(channel)
        queue.declare()  # as whoever asks does; it is found, and then nobody reads it
        mailbox._publish_reply({"a": "pong"}, queue.exchange.name, queue.routing_key, "ticket", channel=channel)
        left: Any = parts.redis.ttl(f"{celeryconfig.broker_transport_options['global_keyprefix']}{queue.name}")
        queue.delete()
    assert 0 < left <= 60


def test_a_stage_that_is_tried_again_is_sent_and_goes_on_from_there(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, events: Events
) -> None:
    refused = {"kind": "status", "status": 429, "endpoint": "chat", "count": 1, "retry_after": 1.5}
    standin.configure(held=True, faults=[refused])
    question = submit(client, facts)
    eventually(lambda: messages(parts, question) == [f"{question.id}.generate"])
    standin.configure()
    answer = answered(client, question)
    assert [timing.stage for timing in answer.timings].count("generate") == 2
    seen = events.once(question, "ask.record", "succeeded")
    assert sorted(seen.pop("ask.generate")) == sorted([*DONE[:2], "retried", *DONE])
    assert set(map(tuple, seen.values())) == {tuple(DONE)}


def test_a_stage_that_fails_for_good_fails_alone(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, events: Events
) -> None:
    standin.configure(faults=[{"kind": "status", "status": 404, "endpoint": "chat", "count": 1}])
    question = submit(client, facts)
    with pytest.raises(ModelNotFound):
        answered(client, question)
    seen = events.once(question, "ask.generate", "failed")
    assert seen.pop("ask.generate") == ["received", "started", "failed"]
    assert set(map(tuple, seen.values())) == {tuple(DONE)}
    letter = parts.dead_letters.find(question.id)
    assert letter is not None
    assert (letter.stage, letter.task) == ("generate", "ask.generate")


def test_no_stage_begins_after_the_question_was_cancelled(
    client: Client, facts: KnowledgeBase, events: Events, held_guard: Callable[[], None], standin: StandInProcess
) -> None:
    question = submit(client, facts)
    events.once(question, "ask.guard", "started")
    assert client.cancel(question.id)
    held_guard()
    assert events.once(question, "ask.embed", "started") == {"ask.guard": DONE, "ask.embed": ["received", "started"]}
    with pytest.raises(Cancelled):
        client.result(question.id)
    assert standin.counters()["calls"] == {}


def test_of_a_worker_that_is_killed_in_mid_answer_another_one_takes_all_of_it_and_records_it_once(
    app: Any,
    client: Client,
    parts: Parts,
    facts: KnowledgeBase,
    standin: StandInProcess,
    worker: WorkerProcess,
    other: WorkerProcess,
) -> None:
    from tasks import recovery

    standin.configure(first_token=20.0)
    question = submit(client, facts)
    standin.wait_for(lambda seen: seen["streams_open"] == 1)
    other.kill()
    standin.configure(first_token=0.0)
    take_over(app, worker)
    eventually(lambda: recovery.redeliver(parts))
    answer = answered(client, question)
    assert [(timing.stage, timing.worker) for timing in answer.timings] == [
        (name, worker.name) for name in flow.stages(parts)
    ]
    assert parts.questions.find(question.id).question.epoch == 0


def test_a_worker_that_is_told_to_stop_leaves_the_next_stages_to_others(
    app: Any,
    client: Client,
    facts: KnowledgeBase,
    events: Events,
    worker: WorkerProcess,
    other: WorkerProcess,
    held_guard: Callable[[], None],
) -> None:
    question = submit(client, facts)
    events.once(question, "ask.guard", "started")
    other.process.terminate()
    eventually(lambda: events.drain() and any(e["type"] == "worker-offline" for e in events.seen))
    held_guard()
    other.process.wait(timeout=20)
    take_over(app, worker)
    workers = [timing.worker for timing in answered(client, question).timings]
    assert workers == [other.name, *[worker.name] * (len(workers) - 1)]


def test_a_worker_that_is_told_to_stop_records_the_answer_that_it_has_written(
    client: Client, facts: KnowledgeBase, standin: StandInProcess, other: WorkerProcess
) -> None:
    standin.configure(first_token=2.0)
    question = submit(client, facts)
    standin.wait_for(lambda seen: seen["streams_open"] == 1)
    other.process.terminate()
    other.process.wait(timeout=20)
    answer = client.result(question.id)
    assert answer is not None
    assert {timing.worker for timing in answer.timings} == {other.name}
