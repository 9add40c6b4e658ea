"""Redis or Postgres is away for a while: whoever waits goes on waiting, and nothing is held for ever."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import psutil
import pytest
import redis
import sqlalchemy as sa
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.local.processes import collect
from deploy.local.redis import start_redis
from deploy.local.service import RunningService
from pipeline import settings
from pipeline.errors import ServerFault, Unreachable
from pipeline.types import Answer, AskState, KnowledgeBase, Question, StageFailure
from pipeline.wiring import Parts
from tests.installation import eventually
from tests.standin.fixture import StandInProcess
from tests.workers import WorkerProcess

if TYPE_CHECKING:
    from tasks.client import Client

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's result backend
SLOTS = 20
"""Of the worker of the session."""
PATIENCE = 10.0
"""Seconds after its deadline in which a question that Postgres must not hear of is told so."""
TEXT = "It was written before the outage, and read after it."


class Mortal:
    """A Redis that can be taken away, and comes back with its data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.service = start_redis(folder, die_with_parent=True)

    @property
    def url(self) -> str:
        return self.service.url

    def kill(self) -> None:
        process = self.service.record.process
        with redis.Redis.from_url(self.url) as client:
            assert eventually(lambda: _is_on_disk(client))
        process.send(signal.SIGKILL)
        assert eventually(lambda: not process.alive())
        collect(process)

    def revive(self) -> None:
        self.service: RunningService = start_redis(self._folder, port=urlsplit(self.url).port, die_with_parent=True)


def _is_on_disk(client: redis.Redis) -> bool:
    """Whether all that was acknowledged would outlast a kill."""
    told: Any = client.info("persistence")
    return bool(told["aof_buffer_length"] == told["aof_pending_bio_fsync"] == 0)


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Mortal]:
    server = Mortal(tmp_path / "redis")
    yield server
    server.service.stop()


@pytest.fixture
def elsewhere(mortal: Mortal, environment: Mapping[str, str], parts: Parts) -> Iterator[Parts]:
    """The same installation, its streams on a Redis that can be taken away."""
    namespace = parts.settings.namespace
    urls: dict[str, Any] = {"REDIS_URL": mortal.url, "DATABASE_URL": environment["DATABASE_URL"]}
    found = Parts(settings.Settings(**urls, namespace=namespace, connect_timeout=1))
    yield found
    found.close()


@contextmanager
def frozen(parts: Parts) -> Iterator[None]:
    """All processes of Postgres are stopped."""
    with parts.engine.connect() as connection:
        server = psutil.Process(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()).parent()
    assert server is not None
    stopped = [server]
    try:
        server.suspend()  # before its children are counted, so that it can't have more
        stopped += server.children(recursive=True)
        for process in stopped[1:]:
            process.suspend()
        yield
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@pytest.fixture
def question(client: Client, parts: Parts, facts: KnowledgeBase) -> Iterator[Question]:
    """One that nobody works on."""
    asked = client.question("Who is at it?", kb=facts.name, timeout=60)
    parts.questions.submit(asked)
    yield asked
    parts.questions.cancel(asked.id)


def test_a_reader_waits_for_redis_and_reads_on_where_it_was(
    elsewhere: Parts, mortal: Mortal, question: Question, app: Any
) -> None:
    from tasks.client import Client

    writer = elsewhere.streams.begin(question.id, 1, TEXT[:10])
    events = Client(elsewhere).follow(question)
    seen = [next(events), next(events)]
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(lambda: list(events))
        mortal.kill()
        assert not rest.done()
        mortal.revive()
        elsewhere.streams.go_on(question.id, TEXT[10:], writer, renew=False)
        elsewhere.streams.append(question.id, "done")
        seen += rest.result(timeout=20)
    assert "".join(event.value for event in seen if event.kind == "text") == TEXT


def test_an_answer_that_is_written_while_redis_is_away_is_heard_from_its_beginning_afterwards(
    elsewhere: Parts, mortal: Mortal, question: Question
) -> None:
    """Its model is paid for: the outage is no reason to call it again."""
    writer = elsewhere.streams.open(question.id, 1)
    writer.write(TEXT[:5])
    mortal.kill()
    for piece in (TEXT[5:10], TEXT[10:15]):
        writer.write(piece)
        writer.flush()
        time.sleep(0.15)
    mortal.revive()
    writer.write(TEXT[15:])
    writer.flush()
    elsewhere.streams.append(question.id, "done")
    events = elsewhere.streams.read(question.id, "0", block=1)
    heard = [(event.kind, event.value) for event in events]
    assert heard == [("begin", 1), ("text", TEXT[:5]), ("begin", 1), ("text", TEXT), ("done", None)]
    assert len({event.writer for event in events if event.kind == "begin"}) == 2


def test_an_answer_that_begins_while_redis_is_away_is_written_all_the_same(
    elsewhere: Parts, mortal: Mortal, question: Question
) -> None:
    mortal.kill()
    writer = elsewhere.streams.open(question.id, 2)
    writer.write(TEXT[:5])
    mortal.revive()
    time.sleep(0.15)
    writer.write(TEXT[5:])
    events = elsewhere.streams.read(question.id, "0", block=1)
    assert [(event.kind, event.value) for event in events] == [("begin", 2), ("text", TEXT)]


def test_a_redis_that_refuses_to_take_an_answer_does_not_end_it(
    elsewhere: Parts, mortal: Mortal, question: Question
) -> None:
    """As where its memory or its disk is full."""
    elsewhere.redis.config_set("maxmemory", 1)
    writer = elsewhere.streams.open(question.id, 1)
    writer.write(TEXT)
    writer.flush()
    with pytest.raises(Unreachable, match="Redis refuses"):
        elsewhere.streams.append(question.id, "done")
    elsewhere.redis.config_set("maxmemory", 0)
    time.sleep(0.15)
    writer.flush()
    events = elsewhere.streams.read(question.id, "0", block=1)
    assert [(event.kind, event.value) for event in events] == [("begin", 1), ("text", TEXT)]


def test_a_reader_ends_soon_after_the_deadline_though_redis_stays_away_and_says_so(
    elsewhere: Parts, mortal: Mortal, question: Question, app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import client

    mortal.kill()
    monkeypatch.setattr(client, "GRACE", 0.5)
    late = question.model_copy(update={"deadline": time.time()})
    with pytest.raises(Unreachable) as caught:
        list(client.Client(elsewhere).follow(late))
    assert f"may still be answered: `manage.py result {late.id}`" in caught.value.hint
    mortal.revive()


def test_the_row_tells_how_a_question_ended_where_redis_can_not(
    client: Client, question: Question, parts: Parts, facts: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.app import app

    answer = Answer(question_id=question.id, outcome="answered", mode="extractive", text=TEXT)
    away = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    monkeypatch.setattr(app.backend, "get", away.get)
    with pytest.raises(Unreachable):
        client.result(question.id)
    assert parts.questions.finish(answer, kb_id=facts.id, epoch=0)
    found = client.result(question.id)
    assert found is not None
    assert found.text == TEXT


def test_a_worker_waits_for_redis_with_a_result_to_store_and_a_client_does_not(mortal: Mortal, app: Any) -> None:
    from tasks.results import AskedRedisBackend

    backend = AskedRedisBackend(app=app, url=mortal.url)
    mortal.kill()
    with pytest.raises(redis.exceptions.ConnectionError):
        backend.store_result("by-a-client", 1, "SUCCESS")
    with ThreadPoolExecutor(1) as pool:
        request = app.tasks["ask.guard"].request
        stored = pool.submit(backend.store_result, "by-a-worker", 1, "SUCCESS", request=request)
        mortal.revive()
        stored.result(timeout=20)
    assert backend.get_task_meta("by-a-worker")["result"] == 1


def test_nobody_hears_of_a_failure_that_could_not_be_recorded_while_there_is_time(
    client: Client, question: Question, parts: Parts, free_port: Callable[[], int], environment: Mapping[str, str]
) -> None:
    """The sweep will send the question again: it may yet be answered."""
    from tasks import outcome, runtime

    urls: dict[str, Any] = {
        "REDIS_URL": environment["REDIS_URL"],
        "DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/x",
    }
    crippled = Parts(settings.Settings(**urls, namespace=parts.settings.namespace, connect_timeout=1))
    failure = StageFailure(stage="guard", state=AskState(question=question))
    runtime.use(crippled)
    try:
        outcome.fail_question(question.id, ServerFault("It failed."), 0, failure)
    finally:
        runtime.use(parts)
        crippled.close()
    assert client.result(question.id) is None
    assert parts.streams.read(question.id, "0", block=0.01) == []


def test_while_postgres_is_frozen_questions_end_in_time_and_afterwards_no_slot_is_kept(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, worker: WorkerProcess
) -> None:
    """Half of them end meanwhile, with an error that says why; the others have time to be answered when it is back."""

    def submit(timeout: float) -> Question:
        asked = client.question("Where does the river Volga flow?", kb=facts.name, timeout=timeout)
        client.submit(asked)
        return asked

    standin.configure(held=True)
    short, long = [submit(12.0) for _ in range(SLOTS // 2)], [submit(40.0) for _ in range(SLOTS // 2)]
    standin.wait_for(lambda seen: seen["streams_open"] == SLOTS)
    with frozen(parts):
        standin.configure()
        ends = [end_in_stream(parts, question) for question in short]
        assert all(kind == "error" and "Postgres" in said for kind, said in ends), ends
        assert time.time() < max(question.deadline for question in short) + PATIENCE
    assert {end_in_stream(parts, question)[0] for question in long} == {"done"}
    assert all(time.time() < question.deadline for question in long)
    for question in short:
        parts.questions.cancel(question.id)

    standin.configure(first_token=600.0)
    after = [submit(60.0) for _ in range(SLOTS + 4)]
    standin.wait_for(lambda seen: seen["streams_open"] == SLOTS, 30)
    for question in after:
        client.cancel(question.id)
    standin.wait_for(lambda seen: seen["streams_open"] == 0)
    standin.reset()
    again = submit(20.0)
    assert end_in_stream(parts, again)[0] == "done"
    answer = client.result(again.id)
    assert answer is not None
    assert (answer.mode, answer.degraded) == ("generated", ())


def end_in_stream(parts: Parts, question: Question) -> tuple[str, str]:
    """The last entry, as soon as it is there; in Redis, so that it can be seen without Postgres."""
    position = "0"
    while time.time() < question.deadline + PATIENCE:
        for event in parts.streams.read(question.id, position, block=0.5):
            position = event.position
            if event.kind in ("done", "error"):
                return event.kind, str(event.value)
    raise AssertionError(f"question {question.id} did not end")


def test_a_broken_connection_is_no_reason_to_run_again_what_is_being_run(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, worker: WorkerProcess
) -> None:
    """The worker lives and ends what it is at; only its connections are new."""
    from tasks import recovery

    standin.configure(held=True)
    count = SLOTS // 2  # a second run of one would have a slot at once
    questions = [client.question("Where does the river Volga flow?", kb=facts.name) for _ in range(count)]
    for question in questions:
        client.submit(question)
    standin.wait_for(lambda seen: seen["streams_open"] == count)
    parts.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    time.sleep(2.0)  # it connects again, and would begin anew what was given back
    standin.configure()
    for question in questions:
        assert end_in_stream(parts, question)[0] == "done"
    ids = [question.id for question in questions]
    eventually(lambda: not [one for one in map(str, recovery._messages(parts)) if any(id_ in one for id_ in ids)])
    assert len(standin.counters()["request_ids"]) == count


def test_a_broken_connection_that_a_child_has_inherited_keeps_no_processor_busy(
    environment: Mapping[str, str], parts: Parts, app: Any, tmp_path: Path
) -> None:
    """A child that took the place of a dead one holds what its parent had open. While all children are at work the
    parent reads nothing, so that nobody but its loop sees that the connection is gone.
    """
    from tasks.control import CANARIES
    from tasks.results import wait_for

    worker = WorkerProcess(
        environment,
        tmp_path / "worker.log",
        name="heir",
        queues="control",
        pool="prefork",
        concurrency=1,
        options=("--prefetch-multiplier", "1"),
    )
    parent = psutil.Process(worker.process.pid)
    try:
        worker.wait_until_ready()
        (first,) = eventually(parent.children)
        first.kill()
        (heir,) = eventually(lambda: [child for child in parent.children() if child.pid != first.pid])
        # Before it has said that it is up, whoever made it would take it for one that never will be.
        wait_for(app.backend, CANARIES["control"].apply_async((time.time(),)).id, timeout=20.0)
        heir.suspend()
        for _ in range(3):
            app.send_task("control.canary", args=(time.time(),), queue="control")
        assert eventually(lambda: held_messages(parts))
        parts.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(1.5)
        before = parent.cpu_times()
        time.sleep(2.0)
        after = parent.cpu_times()
        assert after.user + after.system - before.user - before.system < 0.5
        heir.resume()
        assert eventually(lambda: not held_messages(parts))
    finally:
        for child in parent.children():
            child.resume()
        worker.stop()


def test_a_worker_connects_again_soon_after_redis_is_back(
    mortal: Mortal, environment: Mapping[str, str], tmp_path: Path
) -> None:
    """Celery's own would after 2, 6, 12 … s: here 5 s after it is back."""
    there = {**environment, "REDIS_URL": mortal.url, "CELERIAC_NAMESPACE": "mortal"}
    worker = WorkerProcess(there, tmp_path / "worker.log", name="mortal", queues="control", concurrency=2)
    try:
        worker.wait_until_ready()
        mortal.kill()
        time.sleep(6.5)
        mortal.revive()
        assert eventually(lambda: worker.log.read_text().count("consumer.connection") >= 2, 4.5), worker.log.read_text()
    finally:
        worker.stop()


def held_messages(parts: Parts) -> list[str]:
    """What the workers of this installation have not acknowledged, but for those that wait for ever."""
    from tasks import heartbeat
    from tasks.reconnection import held_key

    tokens = [report.token for report in heartbeat.reports(parts) if not report.name.startswith("waiting-")]
    return [tag.decode() for token in tokens for tag in cast("Any", parts.redis.hkeys(held_key(token)))]


@pytest.mark.parametrize(("upstream", "waits"), [("postgres", True), ("weaviate", False)])
def test_a_stage_waits_for_postgres_as_long_as_there_is_time(app: Any, upstream: str, *, waits: bool) -> None:
    """Without it not even the failure can be recorded."""
    task, error = app.tasks["ask.guard"], Unreachable("It can't be reached.", "", {"upstream": upstream})
    delay = task._delay(error, 100, time.time() + 3600, None)
    assert (delay is not None) == waits
    assert delay is None or 0 < delay <= 2
    assert task._delay(error, 100, time.time(), None) is None


def test_a_task_that_breaks_off_in_celery_is_given_back_and_counts_as_running_no_more(
    environment: Mapping[str, str], parts: Parts, app: Any, tmp_path: Path
) -> None:
    """Its result could not be stored, nor that it failed: without that its message would be held for ever."""
    from tasks import heartbeat
    from tasks.reconnection import held_key

    name = f"breaking-{os.getpid()}"
    options = ["--include", "tests.broken_backend", "--prefetch-multiplier", "2"]
    worker = WorkerProcess(environment, tmp_path / "log", name=name, queues="control", options=options)
    try:
        worker.wait_until_ready()
        sent = app.send_task("ask.broken", queue="control")
        assert eventually(lambda: app.backend.get_task_meta(sent.id)["status"] == "SUCCESS", 20)
        (report,) = eventually(lambda: [one for one in heartbeat.reports(parts) if one.name == worker.name])
        assert eventually(lambda: not parts.redis.exists(held_key(report.token)))
        assert "a task that broke off was given back" in worker.log.read_text()
    finally:
        worker.stop()


@pytest.mark.parametrize(("epoch", "place"), [(0, 2), (1, 0)])
def test_a_question_that_is_sent_again_overtakes_new_ones(
    question: Question, parts: Parts, epoch: int, place: int
) -> None:
    """It has waited already."""
    from tasks import broker, canvases

    lists = broker.keys_of("control")
    before = [int(parts.redis.llen(name)) for name in lists]  # type: ignore[arg-type]
    canvases.ask(question.model_copy(update={"epoch": epoch})).apply_async(queue="control")
    after = [int(parts.redis.llen(name)) for name in lists]  # type: ignore[arg-type]
    assert [now - then for now, then in zip(after, before, strict=True)] == [int(n == place) for n in range(4)]
    parts.redis.lpop(lists[place])
