"""Giving up questions that real workers are at."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from deploy.local.redis import start_redis
from pipeline import losses, prompts
from pipeline.ask import flow
from pipeline.ask.question import new_question
from pipeline.errors import BudgetSpent, Cancelled, NotFound, ServerFault, Unreachable
from pipeline.prices import cost
from pipeline.types import KnowledgeBase, Question
from pipeline.wiring import Parts
from tests.command_line import CommandLine
from tests.installation import eventually, ingest, new_kb, scalars, write
from tests.standin.fixture import StandInProcess
from tests.workers import WorkerProcess

if TYPE_CHECKING:
    from tasks.client import Client

pytestmark = [
    pytest.mark.usefixtures("worker", "standin"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery's result backend
]

VOLGA = "Where does the river Volga flow?"
SLOW = {"chunks": 500, "stream_seconds": 50}
WITHIN = 10.0
"""Seconds after which the model's stream must be closed: nothing else ends it within 15. That it takes less than one on
a machine with nothing else to do is measured by ``python -m tests.benchmarks.cancel``."""


def submit(client: Client, kb: KnowledgeBase) -> Question:
    question = client.question(VOLGA, kb=kb.name, timeout=30)
    client.submit(question)
    return question


def assert_cancelled(client: Client, parts: Parts, question: Question) -> None:
    """Wherever one looks."""
    with pytest.raises(Cancelled, match=question.id):
        client.result(question.id)
    ends = [event for event in parts.streams.read(question.id, "0", block=1) if event.kind in ("done", "error")]
    assert {(event.kind, event.value["code"]) for event in ends} == {("error", "Cancelled")}
    assert parts.questions.find(question.id).status == "cancelled"


@pytest.mark.parametrize(
    "behaviour",
    [
        SLOW,
        {"first_token": 50},
        {"first_token": 50, "late_headers": True},
        {"faults": [{"kind": "hang", "after_chunks": 3, "endpoint": "chat"}]},
    ],
    ids=["in mid-stream", "before the first token", "before the reply", "while the model hangs"],
)
def test_the_model_s_stream_is_closed_and_everybody_told(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, behaviour: Mapping[str, Any]
) -> None:
    standin.configure(**behaviour)
    question = submit(client, facts)
    standin.wait_for(lambda seen: seen["streams_open"] == 1)
    events = client.follow(question)
    next(events)
    cancelled = time.time()
    assert client.cancel(question.id)
    list(events)
    assert time.time() - cancelled < WITHIN
    seen = standin.wait_for(lambda seen: seen["streams_open"] == 0, WITHIN)
    assert [stream["at"] - cancelled < WITHIN for stream in seen["closed_early"]] == [True]
    assert_cancelled(client, parts, question)
    assert client.cancel(question.id), "a second time says the same"


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_what_a_question_without_an_answer_cost_is_on_record_and_off_the_budget(
    end: str, client: Client, parts: Parts, standin: StandInProcess, docs: Path
) -> None:
    write(docs, volga="The Volga flows into the Caspian Sea.")
    kb = new_kb(parts, tenant=end)
    ingest(parts, kb, docs)
    prompt = sum(len(content.encode()) for _, content in _prompt(parts, kb))
    standin.configure(**(SLOW if end == "cancelled" else {"finish_reason": "content_filter"}))
    question = client.question(VOLGA, kb=kb.name, tenant=end, timeout=30)
    client.submit(question)
    events = client.follow(question)
    eventually(lambda: next(events).kind == "text")
    if end == "cancelled":
        assert client.cancel(question.id)
    list(events)
    eventually(lambda: _is_refused(parts, end))
    usage, seen = parts.questions.find(question.id).usage, standin.counters()
    assert usage.model == parts.settings.generator_name
    if end == "cancelled":
        assert usage.input_tokens == -(-prompt // losses.BYTES_PER_TOKEN)
        assert 0 < usage.output_tokens < 500
        assert usage.estimated_tokens == usage.tokens
    else:
        assert usage.tokens == seen["input_tokens"] + seen["output_tokens"]
    assert usage.cost_usd == cost(usage.model, usage.input_tokens, usage.output_tokens, {})
    standin.reset()
    again = client.question(VOLGA, kb=kb.name, tenant=end, timeout=30)
    client.submit(again)
    with pytest.raises(BudgetSpent, match="20 tokens"):
        eventually(lambda: client.result(again.id))


def _is_refused(parts: Parts, tenant: str) -> bool:
    """Whether its budget is spent, as Redis counts."""
    assert parts.budget is not None
    try:
        parts.budget.check(tenant)
    except BudgetSpent:
        return True
    return False


def _prompt(parts: Parts, kb: KnowledgeBase) -> Sequence[tuple[str, str]]:
    """What a model is asked."""
    state = flow.retrieve(new_question(VOLGA, parts.settings, kb=kb.name, tenant=kb.tenant), parts)
    return prompts.render(VOLGA, state.passages)


def test_the_worker_stops_there_and_serves_the_next_question(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, worker: WorkerProcess
) -> None:
    standin.configure(**SLOW)
    question = submit(client, facts)
    standin.wait_for(lambda seen: seen["streams_open"] == 1)
    client.cancel(question.id)
    log = eventually(lambda: [line for line in _log(worker, question) if "gave way" in line])
    assert len(log) == 1
    standin.reset()
    again = submit(client, facts)
    assert eventually(lambda: client.result(again.id)) is not None
    assert not any("record" in line for line in _log(worker, question))
    assert_cancelled(client, parts, question)


def test_a_message_of_a_cancelled_question_calls_no_model(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, worker: WorkerProcess
) -> None:
    """Whether it waited in the queue or is delivered once more."""
    from tasks import canvases

    question = client.question(VOLGA, kb=facts.name, timeout=30)
    parts.questions.submit(question)
    assert client.cancel(question.id)
    canvases.ask(question).apply_async()
    log = eventually(lambda: _log(worker, question))
    assert "before stage 'guard'" in log[0]
    assert standin.counters()["calls"] == {}
    assert_cancelled(client, parts, question)


def test_what_is_over_stays_as_it_ended(client: Client, facts: KnowledgeBase) -> None:
    question = submit(client, facts)
    answer = eventually(lambda: client.result(question.id))
    assert answer is not None
    assert not client.cancel(question.id)
    again = client.result(question.id)
    assert again is not None
    assert again.text == answer.text
    with pytest.raises(NotFound):
        client.cancel(str(uuid.uuid4()))


def test_no_later_failure_and_no_sweep_changes_it(client: Client, parts: Parts, facts: KnowledgeBase) -> None:
    from tasks import outcome, recovery

    question = client.question(VOLGA, kb=facts.name, timeout=30)
    question = question.model_copy(update={"submitted_at": question.submitted_at - 60})
    parts.questions.submit(question)
    client.cancel(question.id)
    outcome.fail_question(question.id, ServerFault("Too late."), question.epoch)
    recovery.reconcile_questions(parts)
    assert parts.questions.find(question.id).question.epoch == question.epoch
    assert_cancelled(client, parts, question)


def test_a_failure_that_postgres_can_not_be_asked_about_changes_nothing_either(
    client: Client, parts: Parts, facts: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import outcome

    def unreachable(*_: object, **__: object) -> bool:
        raise Unreachable("Postgres can't be reached.")

    question = client.question(VOLGA, kb=facts.name, timeout=30)
    parts.questions.submit(question)
    client.cancel(question.id)
    eventually(lambda: parts.cancellations.is_cancelled(question.id))
    monkeypatch.setattr(parts.questions, "fail", unreachable)
    outcome.fail_question(question.id, ServerFault("Too late."), question.epoch)
    assert_cancelled(client, parts, question)


def test_whenever_it_comes_a_question_ends_in_one_way(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    """Cancelled at any moment from the first stage to the last, and after: row, result and stream agree."""
    standin.configure(first_token=0.2, stream_seconds=0.3)
    questions = [submit(client, facts) for _ in range(40)]
    eventually(lambda: len(_answered(parts, questions)) >= 5)
    shuffled = random.Random(5).sample(questions, len(questions))
    cancelled = [question for question in shuffled if client.cancel(question.id)]
    assert len(cancelled) <= len(questions) - 5
    assert {question.id for question in questions if question not in cancelled} == _answered(parts, questions)
    for question in questions:
        if question in cancelled:
            assert_cancelled(client, parts, question)
        else:
            assert client.result(question.id) is not None
            assert not any(event.kind == "error" for event in parts.streams.read(question.id, "0", block=5))
    standin.wait_for(lambda seen: seen["streams_open"] == 0)


def test_while_redis_is_down_the_row_is_cancelled_and_the_worker_hears_of_it_afterwards(
    environment: Mapping[str, str],
    parts: Parts,
    facts: KnowledgeBase,
    standin: StandInProcess,
    services_folder: Path,
    tmp_path: Path,
) -> None:
    folder = services_folder / "redis-that-restarts"
    redis = start_redis(folder, die_with_parent=True)
    own = {**environment, "REDIS_URL": redis.url, "CELERIAC_HOME": str(tmp_path)}
    manage = CommandLine(own)
    worker = WorkerProcess(own, tmp_path / "log", name=f"restart-{os.getpid()}", queues="ask")
    standin.configure(**SLOW)
    try:
        worker.wait_until_ready()
        question_id = manage("ask", VOLGA, "--kb", facts.name, "--detach").out.strip()
        standin.wait_for(lambda seen: seen["streams_open"] == 1)
        redis.stop()
        assert "its workers could not be told" in manage("cancel", question_id).error(1)
        assert parts.questions.find(question_id).status == "cancelled"
        redis = start_redis(folder, port=urlsplit(redis.url).port, die_with_parent=True)
        standin.wait_for(lambda seen: seen["streams_open"] == 0)
        assert len(standin.counters()["closed_early"]) == 1
    finally:
        worker.kill()
        redis.stop()


def _answered(parts: Parts, questions: Sequence[Question]) -> set[str]:
    ids = [question.id for question in questions]
    return set(scalars(parts, "SELECT id::text FROM questions WHERE id::text = ANY(:ids) AND status = 'done'", ids=ids))


def _log(worker: WorkerProcess, question: Question) -> list[str]:
    return [line for line in worker.log.read_text(errors="replace").splitlines() if question.id in line]
