"""Nothing is lost: killed workers, vanished messages, abandoned runs."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from pipeline import settings
from pipeline.errors import CeleriacError, DeadlineExceeded
from pipeline.ingest import flow
from pipeline.types import KnowledgeBase, Question
from pipeline.wiring import Parts
from tests.installation import (
    answer_of,
    claimed,
    counts,
    eventually,
    execute,
    live_texts,
    manifest,
    run_stages,
    scalars,
    started,
    write,
)
from tests.standin.fixture import StandInProcess
from tests.workers import WorkerProcess

if TYPE_CHECKING:
    from tasks.client import Client

pytestmark = [
    pytest.mark.usefixtures("worker", "standin"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery's result backend
]
LONG_AGO = 60.0


@pytest.fixture
def recovery(parts: Parts) -> ModuleType:
    from tasks import recovery

    return recovery


@pytest.fixture
def start_worker(environment: Mapping[str, str], tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts further workers; all are killed at the end of the test."""
    workers: list[WorkerProcess] = []

    def start(**how: Any) -> WorkerProcess:
        name = f"extra-{os.getpid()}-{len(workers)}"
        workers.append(WorkerProcess(environment, tmp_path / f"{name}.log", name=name, **how))
        workers[-1].wait_until_ready()
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


def key(parts: Parts, name: str) -> str:
    return f"{parts.settings.namespace}:{name}"


def asked(client: Client, parts: Parts, kb: KnowledgeBase, *, age: float = 0.0, timeout: float = 60) -> Question:
    """A question's row, written ``age`` seconds ago, without a message."""
    question = client.question("Where does the river Volga flow?", kb=kb.name, timeout=timeout)
    question = question.model_copy(update={"submitted_at": question.submitted_at - age})
    parts.questions.submit(question)
    return question


def answered(client: Client, question: Question) -> str:
    return answer_of(client, question, within=30.0).text


def epoch(parts: Parts, question: Question) -> int:
    return parts.questions.find(question.id).question.epoch


def dead(parts: Parts, recovery: ModuleType) -> set[str]:
    """Tokens in the register of workers that give no sign of life."""
    tokens: Any = parts.redis.smembers(recovery.registry_key(parts))
    return {token.decode() for token in tokens if not parts.redis.exists(recovery.report_key(parts, token.decode()))}


def send(question: Question, queue: str = "ask") -> None:
    from tasks import canvases

    # In the list that has the queue's own name.
    canvases.ask(question).apply_async(queue=queue, priority=0)


def waiting(parts: Parts, queue: str = "control") -> int:
    return int(parts.redis.llen(key(parts, queue)))  # type: ignore[arg-type]


def let_go(parts: Parts, queue: str) -> None:
    """Move what waits in ``control``, where nobody listens, to where the session's worker does."""
    while parts.redis.lmove(key(parts, "control"), key(parts, queue), "RIGHT", "LEFT"):
        pass


# --------------------------------------------------------------------------- killed workers


def test_what_a_killed_worker_held_is_delivered_again_begun_or_not(
    client: Client,
    parts: Parts,
    facts: KnowledgeBase,
    recovery: ModuleType,
    start_worker: Callable[..., WorkerProcess],
) -> None:
    """Given a worker that runs two tasks and has fetched more, when it gets kill -9, then all of them are answered."""
    from tasks import heartbeat

    recovery.redeliver(parts)  # what earlier tests may have left
    questions = [asked(client, parts, facts) for _ in range(8)]
    with parts.engine.begin() as connection:
        connection.execute(sa.text("LOCK TABLE knowledge_bases IN ACCESS EXCLUSIVE MODE"))  # the guard waits for it
        doomed = start_worker(queues="control", concurrency=2)
        for question in questions:
            send(question, "control")
        eventually(lambda: held(parts, recovery) >= 3 and _is_settled(lambda: held(parts, recovery), 8, parts))
        (token,) = eventually(lambda: [one.token for one in heartbeat.reports(parts) if one.name == doomed.name])
        doomed.kill()
    last_sign = recovery.report_key(parts, token)
    parts.redis.set(last_sign, parts.redis.get(last_sign) or b"{}", ex=60)  # type: ignore[arg-type]
    assert recovery.redeliver(parts) == 0, "it is still warm"
    parts.redis.expire(last_sign, 1)
    eventually(lambda: token in dead(parts, recovery))
    assert recovery.redeliver(parts) == 1
    assert recovery.redeliver(parts) == 0
    assert waiting(parts) == 8
    let_go(parts, "ask")
    assert len({answered(client, question) for question in questions}) == 1
    assert [epoch(parts, question) for question in questions] == [0] * 8


def _is_settled(held: Callable[[], int], count: int, parts: Parts) -> bool:
    """Whether no message is on its way from the queue to a worker: there no single look sees it."""
    seen = held()
    time.sleep(0.5)
    return held() == seen == count - waiting(parts)


def test_a_worker_that_ended_in_good_order_leaves_nothing_to_rescue(
    client: Client, parts: Parts, facts: KnowledgeBase, recovery: ModuleType, start_worker: Callable[..., WorkerProcess]
) -> None:
    worker = start_worker(queues="control")
    question = asked(client, parts, facts)
    send(question, "control")
    answered(client, question)
    worker.stop()
    recovery.redeliver(parts)
    assert waiting(parts) == 0
    assert dead(parts, recovery) == set()


def held(parts: Parts, recovery: ModuleType) -> int:
    tokens: Any = parts.redis.smembers(recovery.registry_key(parts))
    return sum(parts.redis.hlen(key(parts, f"unacked:{token.decode()}")) for token in tokens)  # type: ignore[misc]


def test_what_a_living_worker_holds_stays_with_it(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, recovery: ModuleType
) -> None:
    standin.configure(held=True)
    questions = [asked(client, parts, facts) for _ in range(3)]
    for question in questions:
        send(question)
    standin.wait_for(lambda counters: counters["in_flight"] == 3)
    recovery.redeliver(parts)
    assert held(parts, recovery) >= 3
    standin.configure()
    for question in questions:
        answered(client, question)
    assert standin.counters()["calls"] == {"chat 200": 3}


def test_a_rescue_that_another_one_blocks_is_not_called_done(parts: Parts, recovery: ModuleType) -> None:
    """The lock is held for as long as a rescue takes, or for minutes where the rescuer itself was killed."""
    token = "fellworker01"
    message = json.dumps([{"headers": {"id": "x"}, "properties": {}, "body": ""}, "", "nowhere"])
    parts.redis.sadd(recovery.registry_key(parts), token)
    parts.redis.hset(key(parts, f"unacked:{token}"), "tag", message)
    parts.redis.zadd(key(parts, f"unacked_index:{token}"), {"tag": time.time()})
    parts.redis.set(key(parts, f"unacked_mutex:{token}"), "another rescuer", ex=60)
    recovery.redeliver(parts)
    assert token in dead(parts, recovery)
    parts.redis.delete(key(parts, f"unacked_mutex:{token}"))
    recovery.redeliver(parts)
    assert token not in dead(parts, recovery)
    assert parts.redis.exists(key(parts, f"unacked:{token}")) == 0


# --------------------------------------------------------------------------- vanished messages


def test_questions_whose_messages_vanished_are_sent_again(
    client: Client, parts: Parts, facts: KnowledgeBase, recovery: ModuleType
) -> None:
    """Given a Redis that forgot a queue, the rows are still there, and answered in a new epoch."""
    questions = [asked(client, parts, facts, age=LONG_AGO) for _ in range(3)]
    for question in questions:
        send(question, "control")
    assert recovery.reconcile_questions(parts) == 0
    assert parts.redis.delete(key(parts, "control")) == 1
    assert recovery.reconcile_questions(parts) == 3
    for question in questions:
        assert "Caspian" in answered(client, question)
    assert [epoch(parts, question) for question in questions] == [1, 1, 1]


def test_a_question_past_its_deadline_is_failed_and_everyone_told(
    client: Client, parts: Parts, facts: KnowledgeBase, recovery: ModuleType
) -> None:
    late = asked(client, parts, facts, age=LONG_AGO, timeout=-10)
    assert recovery.reconcile_questions(parts) == 1
    with pytest.raises(DeadlineExceeded):
        client.result(late.id)
    assert parts.questions.find(late.id).status == "failed"
    (event,) = parts.streams.read(late.id, "0", block=1)
    assert (event.kind, event.value["code"]) == ("error", "DeadlineExceeded")
    assert recovery.reconcile_questions(parts) == 0


def test_a_question_that_waits_in_a_queue_is_left_alone(
    client: Client, parts: Parts, facts: KnowledgeBase, recovery: ModuleType
) -> None:
    question = asked(client, parts, facts, age=LONG_AGO)
    send(question, "control")
    assert recovery.reconcile_questions(parts) == 0
    assert waiting(parts) == 1
    let_go(parts, "ask")
    answered(client, question)
    assert epoch(parts, question) == 0


def test_a_question_that_a_worker_holds_is_left_alone(
    client: Client, parts: Parts, facts: KnowledgeBase, recovery: ModuleType, standin: StandInProcess
) -> None:
    standin.configure(held=True)
    question = asked(client, parts, facts, age=LONG_AGO)
    send(question)
    standin.wait_for(lambda counters: counters["in_flight"] == 1)
    assert recovery.reconcile_questions(parts) == 0
    standin.configure()
    answered(client, question)
    assert (epoch(parts, question), standin.counters()["calls"]) == (0, {"chat 200": 1})


def test_a_question_that_waits_for_its_next_attempt_is_left_alone(
    client: Client, parts: Parts, facts: KnowledgeBase, recovery: ModuleType, standin: StandInProcess
) -> None:
    standin.configure(faults=[{"kind": "status", "status": 429, "endpoint": "chat", "count": 1, "retry_after": 1.5}])
    question = asked(client, parts, facts, age=LONG_AGO)
    send(question)
    standin.wait_for(lambda counters: counters["calls"].get("chat 429") == 1)
    assert recovery.reconcile_questions(parts) == 0
    answered(client, question)
    assert epoch(parts, question) == 0


def test_a_question_that_was_just_submitted_is_left_alone(
    client: Client, parts: Parts, facts: KnowledgeBase, recovery: ModuleType
) -> None:
    """Its row is written before its message is sent."""
    question = asked(client, parts, facts)
    assert recovery.reconcile_questions(parts) == 0
    assert epoch(parts, question) == 0
    send(question)
    answered(client, question)


# --------------------------------------------------------------------------- runs


def silent(parts: Parts, run_id: str) -> None:
    execute(parts, "UPDATE runs SET heartbeat_at = now() - interval '1 hour' WHERE id = :id", id=run_id)
    execute(parts, "UPDATE run_lanes SET sent_at = now() - interval '1 hour' WHERE run_id = :id", id=run_id)


def step(parts: Parts, run_id: str, lane: int = 0) -> int:
    (found,) = scalars(parts, "SELECT step FROM run_lanes WHERE run_id = :id AND lane = :lane", id=run_id, lane=lane)
    return int(found)


def in_lanes(parts: Parts, kb: KnowledgeBase, docs: Path) -> tuple[str, list[tuple[int, int]]]:
    """A running run of 40 sources in 20 batches and several lanes, of which nothing is sent yet."""
    write(docs, **{f"f{n}": f"Text number {n}." for n in range(40)})
    run_id = manifest(parts, kb, docs, batch_documents=2)
    parts.runs.start(run_id)
    settings = parts.settings
    return run_id, parts.batches.open_lanes(run_id, lanes=settings.waves_at_once, size=settings.wave_batches)


def over(parts: Parts, run_id: str) -> str:
    return eventually(lambda: (found := parts.runs.find(run_id).status) != "running" and found, within=30) or ""


def test_a_run_whose_messages_vanished_goes_on_where_it_was(
    parts: Parts, kb: KnowledgeBase, docs: Path, recovery: ModuleType
) -> None:
    write(docs, a="Owls hunt at night.", b="Bread rises.")
    run_id = started(parts, kb, docs)
    assert recovery.reconcile_runs(parts) == 0, "it was heard of a moment ago"
    silent(parts, run_id)
    assert recovery.reconcile_runs(parts) == 1
    assert over(parts, run_id) == "done"
    assert counts(parts, run_id) == {"done": 2}
    assert live_texts(parts, kb) == ["Bread rises.", "Owls hunt at night."]


def test_all_messages_of_a_run_may_vanish(parts: Parts, kb: KnowledgeBase, docs: Path, recovery: ModuleType) -> None:
    """Given a Redis that forgot all lanes while they were under way, each of them is sent again, once."""
    from tasks import canvases

    run_id, lanes = in_lanes(parts, kb, docs)
    for lane, number in lanes:
        canvases.lane(run_id, lane, number).apply_async(queue="control")
    silent(parts, run_id)
    assert recovery.reconcile_runs(parts) == 0
    assert parts.redis.delete(key(parts, "control")) == 1
    assert recovery.reconcile_runs(parts) == len(lanes) > 1
    assert recovery.reconcile_runs(parts) == 0
    assert over(parts, run_id) == "done"
    assert counts(parts, run_id) == {"done": 40}


def test_one_lane_may_vanish_while_the_others_go_on(
    parts: Parts, kb: KnowledgeBase, docs: Path, recovery: ModuleType
) -> None:
    from tasks import canvases

    run_id, lanes = in_lanes(parts, kb, docs)
    lost = lanes[0]
    assert parts.batches.next_wave(run_id, *lost, 4), "its first wave was made, and vanished with its batches"
    for lane, number in lanes[1:]:
        canvases.lane(run_id, lane, number).apply_async()
    eventually(lambda: counts(parts, run_id).get("done", 0) == 32)
    assert parts.runs.find(run_id).status == "running"
    silent(parts, run_id)
    assert recovery.reconcile_runs(parts) == 1
    assert over(parts, run_id) == "done"
    assert counts(parts, run_id) == {"done": 40}


def test_a_wave_of_which_a_task_breaks_is_sent_again(
    parts: Parts, kb: KnowledgeBase, docs: Path, recovery: ModuleType
) -> None:
    """As where Redis goes away just when a stage hands its batch to the next one: that is no end of a run."""
    from tasks import canvases

    write(docs, a="Owls hunt at night.")
    run_id = started(parts, kb, docs)
    ((lane, number),) = parts.batches.open_lanes(run_id, lanes=1, size=4)
    wave = parts.batches.next_wave(run_id, lane, number, 4)
    assert wave is not None
    canvas = canvases.following(run_id, lane, number + 1, wave)
    canvas.tasks[0].tasks[0].args = ({"no": "batch"},)
    canvas.apply_async()
    eventually(lambda: recovery._without_message({run_id}, parts))
    assert parts.runs.find(run_id).status == "running"
    silent(parts, run_id)
    assert recovery.reconcile_runs(parts) == 1
    assert over(parts, run_id) == "done"
    assert counts(parts, run_id) == {"done": 1}


def test_a_run_whose_end_vanished_ends(parts: Parts, kb: KnowledgeBase, docs: Path, recovery: ModuleType) -> None:
    write(docs, a="Owls hunt at night.")
    run_id = started(parts, kb, docs)
    run_stages(parts, run_id, *flow.STAGES)
    silent(parts, run_id)
    assert recovery.reconcile_runs(parts) == 1
    assert over(parts, run_id) == "done"


def test_a_run_that_a_worker_holds_a_lease_of_is_left_alone(
    parts: Parts, kb: KnowledgeBase, docs: Path, recovery: ModuleType
) -> None:
    write(docs, a="Owls hunt at night.")
    run_id = started(parts, kb, docs)
    sent = parts.batches.resend(run_id, 0)
    assert sent is not None
    assert parts.batches.next_wave(run_id, 0, sent, 4)
    lease = claimed(parts, run_id)
    with parts.leases.keeping(lease.holder):
        silent(parts, run_id)
        assert recovery.reconcile_runs(parts) == 0
        parts.batches.release(lease)
    assert recovery.reconcile_runs(parts) == 1
    assert over(parts, run_id) == "done"


def test_a_second_delivery_waits_for_the_first_and_gives_up_nothing(
    parts: Parts, kb: KnowledgeBase, docs: Path
) -> None:
    """Given a batch that a living worker holds for longer than another has patience, nothing of it fails."""
    from tasks import canvases

    write(docs, a="Owls hunt at night.", b="Bread rises.")
    run_id = started(parts, kb, docs)
    ((lane, number),) = parts.batches.open_lanes(run_id, lanes=1, size=4)
    lease = claimed(parts, run_id)
    with parts.leases.keeping(lease.holder):
        canvases.lane(run_id, lane, number).apply_async()
        eventually(lambda: step(parts, run_id) >= number + 2, within=60)  # it lost patience, and the lane went on
        assert counts(parts, run_id) == {"parse": 2}
    assert over(parts, run_id) == "done"
    assert counts(parts, run_id) == {"done": 2}
    assert live_texts(parts, kb) == ["Bread rises.", "Owls hunt at night."]


def test_a_run_that_waits_in_a_queue_is_left_alone(
    parts: Parts, kb: KnowledgeBase, docs: Path, recovery: ModuleType
) -> None:
    from tasks import canvases

    write(docs, a="Owls hunt at night.")
    run_id = started(parts, kb, docs)
    sent = parts.batches.resend(run_id, 0)
    canvases.lane(run_id, 0, sent).apply_async(queue="control")
    silent(parts, run_id)
    assert recovery.reconcile_runs(parts) == 0
    let_go(parts, "ingest")
    assert over(parts, run_id) == "done"
    assert counts(parts, run_id) == {"done": 1}


def test_a_run_whose_lister_was_killed_is_ended_with_what_to_do(
    parts: Parts, kb: KnowledgeBase, docs: Path, recovery: ModuleType
) -> None:
    write(docs, a="Owls hunt at night.")
    run_id = manifest(parts, kb, docs)
    recovery.reconcile_runs(parts)
    assert parts.runs.find(run_id).status == "discovering"
    silent(parts, run_id)
    recovery.reconcile_runs(parts)
    run = parts.runs.find(run_id)
    assert run.status == "failed"
    assert run.error is not None
    assert "Ingest again" in run.error["hint"]


# --------------------------------------------------------------------------- the sweep


def test_the_worker_sweeps_when_it_is_asked_to(app: Any, client: Client, parts: Parts, facts: KnowledgeBase) -> None:
    question = asked(client, parts, facts, age=LONG_AGO)
    app.tasks["control.sweep"].apply_async(queue="ask")
    assert "Caspian" in answered(client, question)
    assert epoch(parts, question) == 1


@pytest.mark.parametrize("down", ["DATABASE_URL", "REDIS_URL"])
def test_a_sweep_survives_that_a_service_is_down(
    down: str, app: Any, parts: Parts, environment: Mapping[str, str], free_port: Callable[[], int]
) -> None:
    """What can't be done now is done by a later one."""
    from tasks import runtime

    scheme = "postgresql" if down == "DATABASE_URL" else "redis"
    urls = {name: environment[name] for name in ("REDIS_URL", "DATABASE_URL")}
    urls[down] = f"{scheme}://127.0.0.1:{free_port()}/0"
    crippled = Parts(settings.Settings(**urls, namespace=parts.settings.namespace, connect_timeout=1))  # type: ignore[arg-type]
    runtime.use(crippled)
    try:
        done = app.tasks["control.sweep"]()
    finally:
        runtime.use(parts)
        crippled.close()
    assert ("redeliver" in done) == (down == "DATABASE_URL")
    assert not {"reconcile_questions", "reconcile_runs"} & set(done) or down == "REDIS_URL"


def test_a_failure_is_told_where_it_can_be_told_though_the_ledger_is_down(
    client: Client, parts: Parts, facts: KnowledgeBase, free_port: Callable[[], int], environment: Mapping[str, str]
) -> None:
    from tasks import outcome, runtime

    question = asked(client, parts, facts)
    urls = {"REDIS_URL": environment["REDIS_URL"], "DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/x"}
    crippled = Parts(settings.Settings(**urls, namespace=parts.settings.namespace, connect_timeout=1))  # type: ignore[arg-type]
    runtime.use(crippled)
    try:
        outcome.fail_question(question.id, DeadlineExceeded("No answer came in time."), 0)
    finally:
        runtime.use(parts)
        crippled.close()
    with pytest.raises(CeleriacError, match="No answer came in time"):
        client.result(question.id)
    assert parts.streams.read(question.id, "0", block=1)[-1].kind == "error"
    parts.questions.fail(question.id, DeadlineExceeded("No answer came in time."), epoch=0)


def test_what_a_broken_connection_held_is_given_back_at_the_next_one(parts: Parts) -> None:
    """Celery restores it over the connection that has just broken, which does nothing; its worker lives on."""
    import celeryconfig
    from tasks.app import app
    from tasks.control import CANARIES
    from tasks.reconnection import GiveBack

    sent = {CANARIES["control"].apply_async((time.time(),)).id for _ in range(3)}
    held = f"unacked:{celeryconfig.worker_token}"
    with app.connection_for_read() as connection:
        consumer = connection.SimpleQueue(celeryconfig.task_queues[-1], no_ack=False)
        taken = {consumer.get(timeout=5).headers["id"] for _ in range(3)}
        assert taken == sent
        assert parts.redis.hlen(key(parts, held)) == 3
        with app.connection_for_read() as fresh:
            GiveBack(None).start(Connected(fresh))
        assert parts.redis.hlen(key(parts, held)) == 0
        waiting = {json.loads(message)["headers"]["id"] for message in parts.redis.lrange(key(parts, "control"), 0, -1)}
        assert sent <= waiting
        for message in parts.redis.lrange(key(parts, "control"), 0, -1):
            if json.loads(message)["headers"]["id"] in sent:
                parts.redis.lrem(key(parts, "control"), 1, message)


@pytest.mark.parametrize(("end", "left"), [("ack", 0), ("requeue", 0), ("ack without Redis", 1)])
def test_what_is_being_run_can_be_ended_when_its_connection_is_gone(
    parts: Parts, end: str, left: int, monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
) -> None:
    import celeryconfig
    from tasks import reconnection
    from tasks.app import app
    from tasks.control import CANARIES

    sent = CANARIES["control"].apply_async((time.time(),)).id
    queue, held = key(parts, "control"), key(parts, f"unacked:{celeryconfig.worker_token}")
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue(celeryconfig.task_queues[-1], no_ack=False).get(timeout=5)
        monkeypatch.setattr(reconnection, "_running", lambda: {message.delivery_tag})
    assert parts.redis.hkeys(held) == [message.delivery_tag.encode()]
    urls: list[str | None] = [f"redis://127.0.0.1:{free_port()}/0" if "without" in end else None]
    other = SimpleNamespace(connection_for_write=lambda: app.connection_for_write(urls.pop()))
    monkeypatch.setattr(reconnection, "current_app", other)
    errors = app.connection_for_write().connection_errors
    if end == "requeue":
        message.reject_log_error(logging.getLogger("kombu"), errors, requeue=True)
    else:  # which must raise nothing: a prefork worker would die
        message.ack_log_error(logging.getLogger("kombu"), errors)
    assert not urls, "another connection was tried"
    assert parts.redis.hlen(held) == left
    parts.redis.delete(held)
    waiting: Any = parts.redis.lrange(queue, 0, -1)
    back = [raw for raw in waiting if sent.encode() in raw]
    assert len(back) == (1 if end == "requeue" else 0)
    for raw in back:
        parts.redis.lrem(queue, 1, raw)


class Connected:
    """A consumer at the moment of its connection."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection


def test_a_message_that_comes_again_is_no_orphan_until_it_has_lain_there(app: Any, parts: Parts) -> None:
    """It has the tag that it had before, and is known a moment after it has come."""
    import celeryconfig
    from tasks.control import CANARIES
    from tasks.reconnection import Orphans, held_key, index_key

    sent = CANARIES["control"].apply_async((time.time(),)).id
    message, tag = taken_from_queue(parts, sent)
    held, index = held_key(celeryconfig.worker_token), index_key(celeryconfig.worker_token)
    parts.redis.hset(held, tag, json.dumps([message, "", "control"]))
    orphans, found = Orphans(), []
    for delivered in (1.0, 2.0, 2.0):
        parts.redis.zadd(index, {tag: delivered})
        found.append(orphans.give_back(app))
    assert found == [0, 0, 1]
    assert not parts.redis.hexists(held, tag)
    assert taken_from_queue(parts, sent)[1] == tag


def taken_from_queue(parts: Parts, task_id: str) -> tuple[dict[str, Any], str]:
    """The message of that task, which nobody else takes, and its delivery tag."""
    queue = key(parts, "control")
    waiting: Any = parts.redis.lrange(queue, 0, -1)
    (raw,) = [message for message in waiting if task_id.encode() in message]
    parts.redis.lrem(queue, 1, raw)
    message = json.loads(raw)
    return message, message["properties"]["delivery_tag"]


def test_a_message_that_a_living_worker_forgot_goes_back_to_its_queue(parts: Parts) -> None:
    """As after an outage of Redis in which the acknowledgement of what it ran was lost."""
    from tasks import heartbeat
    from tasks.control import CANARIES

    sent = CANARIES["control"].apply_async((time.time(),)).id
    message, tag = taken_from_queue(parts, sent)
    (holder,) = eventually(lambda: [one.token for one in heartbeat.reports(parts) if one.name.startswith("waiting-")])
    parts.redis.zadd(key(parts, f"unacked_index:{holder}"), {tag: time.time()})
    parts.redis.hset(key(parts, f"unacked:{holder}"), tag, json.dumps([message, "", "control"]))

    def back() -> bool:
        found: Any = parts.redis.lrange(key(parts, "control"), 0, -1)
        return any(sent.encode() in message for message in found)

    assert eventually(back)
    assert not parts.redis.hexists(key(parts, f"unacked:{holder}"), tag)
    taken_from_queue(parts, sent)
