"""Equal questions at the same time: one call of the model, an answer for each, whatever becomes of the first one."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import AuthenticationFailed, Cancelled, CeleriacError
from pipeline.types import Answer, AskOptions, AskState, KnowledgeBase, Question
from pipeline.wiring import Parts
from tests.installation import answer_of as answered
from tests.installation import eventually, execute, scalars, with_
from tests.standin.fixture import StandInProcess
from tests.workers import WorkerProcess

if TYPE_CHECKING:
    from tasks.client import Client

pytestmark = [
    pytest.mark.usefixtures("worker", "standin"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery's result backend
]

SLOW = {"first_token": 20}


@pytest.fixture
def text() -> str:
    """A question that no other test has asked."""
    return f"Where does the river Volga flow, {uuid.uuid4()}?"


def submit(client: Client, kb: KnowledgeBase, text: str, timeout: float = 30, **options: object) -> Question:
    options = {"cache": True, **options}
    question = client.question(text, kb=kb.name, options=AskOptions.decode(options), timeout=timeout)
    client.submit(question)
    return question


def read(client: Client, question: Question) -> str:
    """What a reader sees of the answer that counts."""
    shown: list[str] = []
    for event in client.follow(question):
        if event.kind == "begin":
            shown.clear()
        else:
            shown.append(str(event.value))
    return "".join(shown)


def shared(answer: Answer) -> bool:
    return any(timing.cached == "shared" for timing in answer.timings)


def followers(parts: Parts, leader: Question) -> int:
    found: Any = parts.redis.llen(f"{parts.settings.namespace}:cache:behind:{leader.id}")
    return int(found)


def flying(
    client: Client, parts: Parts, standin: StandInProcess, kb: KnowledgeBase, text: str, count: int = 3
) -> tuple[Question, list[Question]]:
    """A question that the model is at, and others that wait for it."""
    leader = submit(client, kb, text)
    eventually(lambda: _leads(parts, leader))
    rest = [submit(client, kb, text) for _ in range(count)]
    eventually(lambda: followers(parts, leader) == count)
    return leader, rest


def _leads(parts: Parts, question: Question) -> bool:
    return bool(parts.redis.exists(f"{parts.settings.namespace}:cache:leads:{question.id}"))


def test_a_hundred_equal_questions_cost_one_call_and_all_are_answered_and_read(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, text: str
) -> None:
    written = {"chunks": 10, "stream_seconds": 0.5}
    standin.configure(held=True, **written)
    with ThreadPoolExecutor(20) as pool:
        asked = list(pool.map(lambda _: submit(client, facts, text), range(100)))
        eventually(lambda: sum(followers(parts, question) for question in asked) > 10)
        standin.configure(**written)
        texts = list(pool.map(lambda question: read(client, question), asked[:20]))
    answers = [answered(client, question) for question in asked]
    assert standin.counters()["calls"] == {"chat 200": 1}
    assert len({answer.text for answer in answers}) == 1
    assert [answer.question_id for answer in answers] == [question.id for question in asked]
    assert {shown.strip() for shown in texts} == {answers[0].text.strip()}
    kinds = Counter(
        "shared" if shared(answer) else "own" if answer.usage.output_tokens else "kept" for answer in answers
    )
    assert kinds["own"] == 1
    assert kinds["shared"] > 10
    ids = [question.id for question in asked]
    timed = scalars(
        parts,
        "SELECT count(*) FROM questions q JOIN stage_timings t ON t.question_id = q.id "
        "WHERE q.id = ANY(CAST(:ids AS uuid[])) AND q.status = 'done' AND t.stage = 'record' GROUP BY q.id",
        ids=ids,
    )
    assert timed == [1] * 100
    assert sum(answer.usage.cost_usd or 0.0 for answer in answers if shared(answer)) == 0.0
    assert answered(client, submit(client, facts, text)).usage.output_tokens == 0


def test_a_reader_of_a_follower_reads_along_and_goes_on_where_it_was(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, text: str
) -> None:
    standin.configure(chunks=100, stream_seconds=6)
    leader, (follower,) = flying(client, parts, standin, facts, text, 1)
    first, second = client.follow(follower), []
    pieces = [event for event, _ in zip((e for e in first if e.kind == "text"), range(5), strict=False)]
    assert client.result(leader.id) is None
    second = [str(e.value) for e in client.follow(follower, position=pieces[-1].position) if e.kind == "text"]
    whole = "".join(str(event.value) for event in pieces) + "".join(second)
    assert whole.strip() == answered(client, leader).text == answered(client, follower).text
    assert read(client, follower).strip() == whole.strip()


def test_whoever_leads_and_is_cancelled_leaves_the_answer_to_the_others(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, text: str
) -> None:
    standin.configure(**SLOW)
    leader, rest = flying(client, parts, standin, facts, text)
    standin.configure(first_token=0.2)
    client.cancel(leader.id)
    assert len({answered(client, question).text for question in rest}) == 1
    with pytest.raises(Cancelled):
        client.result(leader.id)
    assert standin.counters()["calls"].get("chat 200", 0) <= 2


def test_a_follower_is_cancelled_alone(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, text: str
) -> None:
    standin.configure(held=True)
    leader, (first, second) = flying(client, parts, standin, facts, text, 2)
    client.cancel(first.id)
    standin.configure()
    assert answered(client, leader).text == answered(client, second).text
    with pytest.raises(Cancelled):
        client.result(first.id)
    assert parts.questions.find(first.id).status == "cancelled"


def test_what_the_leader_fails_with_all_fail_with(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, text: str
) -> None:
    standin.configure(**SLOW)
    leader, rest = flying(client, parts, standin, facts, text)
    from tasks import outcome

    cause = AuthenticationFailed("openai answered 401: the key is not accepted.")
    outcome.fail_question(leader.id, cause, 0)
    for question in (leader, *rest):
        with pytest.raises(AuthenticationFailed):
            client.result(question.id)
        assert [event for event in client.follow(question) if event.kind == "text"] == []
    assert all(parts.dead_letters.find(question.id) for question in rest)
    _call_off(parts, standin, leader)
    assert answered(client, submit(client, facts, text)).text


def test_what_a_leader_had_no_time_for_is_done_for_those_who_have_more(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, text: str
) -> None:
    standin.configure(faults=[{"kind": "hang", "endpoint": "chat", "count": 1}])
    hurried = submit(client, facts, text, timeout=8, strict=True)
    eventually(lambda: _leads(parts, hurried))
    patient = submit(client, facts, text, strict=True)
    eventually(lambda: followers(parts, hurried) == 1)
    with pytest.raises(CeleriacError):
        answered(client, hurried)
    assert answered(client, patient).mode == "generated"


def test_those_who_have_less_time_than_the_first_one_share_among_themselves(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, text: str
) -> None:
    standin.configure(held=True)
    first = submit(client, facts, text, timeout=30)
    eventually(lambda: _leads(parts, first))
    hurried = submit(client, facts, text, timeout=20)
    eventually(lambda: _leads(parts, hurried))
    rest = [submit(client, facts, text, timeout=20) for _ in range(4)]
    eventually(lambda: followers(parts, hurried) == 4)
    standin.configure()
    assert all(shared(answered(client, question)) for question in rest)
    assert answered(client, first).text == answered(client, hurried).text
    assert standin.counters()["calls"] == {"chat 200": 2}


def test_a_leader_is_answered_though_those_who_follow_can_not_be_told(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, text: str
) -> None:
    from tasks import flights

    asked = submit(client, facts, text)
    answer = answered(client, asked)
    broken = with_(parts, caches=None)  # whatever is done with it fails
    flights.land(AskState(question=asked), answer, broken, "nobody")
    found = client.result(asked.id)
    assert found is not None
    # The row has not the time that it took to write it, and is what is found before the result is stored.
    assert found.model_copy(update={"timings": ()}) == answer.model_copy(update={"timings": ()})


def test_a_lesser_answer_is_shared_and_not_kept(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, text: str
) -> None:
    standin.configure(faults=[{"kind": "hang", "endpoint": "chat"}])
    asked = [submit(client, facts, text, timeout=10) for _ in range(4)]
    answers = [answered(client, question) for question in asked]
    assert {tuple(loss.mode for loss in answer.degraded) for answer in answers} == {("extractive",)}
    assert sum(map(shared, answers)) == 3
    assert sum(answer.usage.estimated_tokens > 0 for answer in answers) == 1, "what the model was given is paid for"
    standin.reset()
    assert answered(client, submit(client, facts, text)).degraded == ()


def test_who_is_stricter_is_not_waited_for_or_has_less_time_goes_alone(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, text: str
) -> None:
    standin.configure(held=True)
    leader, _ = flying(client, parts, standin, facts, text, 1)
    others = [
        submit(client, facts, text, strict=True),
        submit(client, facts, text, bulk=True),
        submit(client, facts, text, timeout=20),
        submit(client, facts, text, cache=False),
    ]
    standin.wait_for(lambda seen: seen["streams_open"] == 5)
    standin.configure()
    assert not any(shared(answered(client, question)) for question in (leader, *others))
    assert standin.counters()["calls"] == {"chat 200": 5}


def test_a_follower_is_not_taken_for_lost_unless_its_leader_is(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess, text: str
) -> None:
    from tasks import recovery

    standin.configure(**SLOW)
    leader, rest = flying(client, parts, standin, facts, text)
    aged = "UPDATE questions SET submitted_at = submitted_at - interval '15 s' WHERE id = ANY(CAST(:ids AS uuid[]))"
    execute(parts, aged, ids=[question.id for question in rest])
    recovery.reconcile_questions(parts)
    assert [parts.questions.find(question.id).question.epoch for question in rest] == [0, 0, 0]
    # A leader that is over and has told nobody, as one whose worker died at that moment.
    execute(parts, "UPDATE questions SET status = 'done' WHERE id = :id", id=leader.id)
    _call_off(parts, standin, leader)

    def sent_again() -> bool:
        recovery.reconcile_questions(parts)
        return all(parts.questions.find(question.id).question.epoch for question in rest)

    eventually(sent_again)
    assert len({answered(client, question).text for question in rest}) == 1


def test_a_leader_whose_worker_is_killed_leads_from_another_one(
    client: Client,
    parts: Parts,
    facts: KnowledgeBase,
    standin: StandInProcess,
    text: str,
    environment: Mapping[str, str],
    tmp_path: Path,
) -> None:
    from tasks import canvases, recovery

    standin.configure(**SLOW)
    doomed = WorkerProcess(environment, tmp_path / "doomed.log", name=f"doomed-{os.getpid()}", queues="control")
    try:
        doomed.wait_until_ready()
        leader = client.question(text, kb=facts.name, options=AskOptions(cache=True), timeout=30)
        parts.questions.submit(leader)
        canvas = canvases.ask(leader)
        for step in canvas.tasks:
            step.set(queue="control")
        canvas.apply_async(queue="control")
        eventually(lambda: _leads(parts, leader))
        rest = [submit(client, facts, text) for _ in range(3)]
        eventually(lambda: followers(parts, leader) == 3)
        standin.wait_for(lambda seen: seen["streams_open"] == 1)
    finally:
        doomed.kill()
    standin.configure()
    eventually(lambda: recovery.redeliver(parts))
    eventually(lambda: (_moved(parts), client.result(leader.id))[1])
    assert len({answered(client, question).text for question in (leader, *rest)}) == 1
    assert all(map(shared, (answered(client, question) for question in rest)))


def _call_off(parts: Parts, standin: StandInProcess, question: Question) -> None:
    """The model's call for a question that is over without it."""
    parts.cancellations.announce(question.id)
    standin.wait_for(lambda seen: seen["streams_open"] == 0)
    standin.reset()


def _moved(parts: Parts) -> bool:
    """What was restored for the killed worker, to the worker that is left."""
    from tasks.broker import keys_of

    found = False
    for there, here in zip(keys_of("control"), keys_of("ask"), strict=True):
        while parts.redis.lmove(there, here, "RIGHT", "LEFT"):
            found = True
    return found
