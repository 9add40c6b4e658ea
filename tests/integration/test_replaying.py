"""Failures, dead letters and replays, through the broker and a real worker."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from deploy.console.explaining import explanation
from pipeline.ask import flow
from pipeline.errors import CeleriacError, Conflict, Postponed, ServerFault
from pipeline.types import AskOptions, AskState, KnowledgeBase, Question, Usage
from pipeline.wiring import Parts
from tests.installation import Pad, eventually, execute, with_
from tests.installation import answer_of as answered
from tests.standin.fixture import StandInProcess

if TYPE_CHECKING:
    from tasks.client import Client

pytestmark = [
    pytest.mark.usefixtures("worker", "standin"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery's result backend
]
STAGES = [stage for stage in flow.STAGES if stage not in ("transform", "rerank")]  # no conversation, no reranker
REFUSED = {"kind": "status", "status": 401, "endpoint": "chat"}


@pytest.fixture(autouse=True)
def _without_faults(standin: StandInProcess) -> Iterator[None]:
    yield
    standin.reset()


def submit(client: Client, kb: KnowledgeBase, timeout: float = 20) -> Question:
    question = client.question("Where does the river Volga flow?", kb=kb.name, timeout=timeout, options=AskOptions())
    client.submit(question)
    return question


def failed(client: Client, kb: KnowledgeBase) -> Question:
    question = submit(client, kb)
    with pytest.raises(CeleriacError):
        answered(client, question)
    return question


def attempts(parts: Parts, question: Question) -> list[tuple[str, int, str]]:
    """Stage, number of the attempt and code of its error, as they are on the row."""
    timings = parts.questions.find(question.id).timings
    return [(timing.stage, timing.attempt, timing.error.partition(":")[0]) for timing in timings]


def test_attempts_before_the_one_that_succeeded_are_on_the_row(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    standin.configure(faults=[{"kind": "status", "status": 503, "endpoint": "chat", "count": 2}])
    question = submit(client, facts)
    answer = answered(client, question)
    tried = [("generate", 1, "ServerFault"), ("generate", 2, "ServerFault"), ("generate", 3, "")]
    before = [(stage, 1, "") for stage in STAGES[:4]]
    assert attempts(parts, question) == [*before, *tried, ("record", 1, "")]
    assert [timing.stage for timing in answer.timings].count("generate") == 3
    record = parts.questions.find(question.id)
    explained = explanation(record, now=time.time())
    ends = [stage["start_ms"] + stage["queue_ms"] + stage["run_ms"] for stage in explained["stages"]]
    assert ends == sorted(ends)
    assert ends[-1] == pytest.approx(explained["took_ms"], abs=50)


def test_a_failed_question_is_answered_from_the_stage_that_failed_on(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    standin.configure(faults=[REFUSED])
    old = failed(client, facts)
    assert attempts(parts, old) == [*((stage, 1, "") for stage in STAGES[:4]), ("generate", 1, "AuthenticationFailed")]
    letter = parts.dead_letters.find(old.id)
    assert letter is not None
    assert (letter.stage, letter.task, letter.attempts) == ("generate", "ask.generate", 1)
    standin.reset()
    begins = client.replay_dead(old.id)
    answer = answered(client, begins.question)
    assert "Caspian Sea" in answer.text
    assert attempts(parts, begins.question) == [("generate", 1, ""), ("record", 1, "")]
    assert standin.counters()["calls"] == {"chat 200": 1}
    with pytest.raises(Conflict, match="replayed already"):
        client.replay_dead(old.id)
    assert parts.questions.replays(old.id) == [begins.question.id]


def test_a_replay_that_fails_has_a_dead_letter_of_its_own(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    standin.configure(faults=[REFUSED])
    old = failed(client, facts)
    again = client.replay_dead(old.id).question
    with pytest.raises(CeleriacError, match="401"):
        answered(client, again)
    standin.reset()
    third = client.replay_dead(again.id).question
    assert answered(client, third).citations
    assert third.replay is not None
    assert third.replay.of == again.id


def test_a_failed_question_can_begin_at_an_earlier_stage_with_other_options(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    standin.configure(faults=[REFUSED])
    old = failed(client, facts)
    standin.reset()
    begins = client.replay(old.id, "search", ["top_k=1"], timeout=20)
    answer = answered(client, begins.question)
    assert (begins.stage, len(answer.passages), begins.question.options.top_k) == ("guard", 1, 1)
    assert [stage for stage, _, _ in attempts(parts, begins.question)] == STAGES


def test_the_tail_of_an_answered_question_runs_again_with_another_model(
    client: Client, parts: Parts, facts: KnowledgeBase
) -> None:
    old = submit(client, facts)
    first = answered(client, old)
    begins = client.replay(old.id, "generate", ["model=gpt-5-mini"])
    second = answered(client, begins.question)
    assert (second.text, second.passages) == (first.text, first.passages)
    assert first.usage.model != second.usage.model == "gpt-5-mini"
    assert second.usage.embedding_tokens == 0
    assert attempts(parts, begins.question) == [("generate", 1, ""), ("record", 1, "")]
    assert parts.dead_letters.find(old.id) is None


def test_an_open_question_is_not_replayed(client: Client, parts: Parts, facts: KnowledgeBase) -> None:
    question = client.question("Still open?", kb=facts.name, timeout=1)
    parts.questions.submit(question)
    with pytest.raises(Conflict, match="not over yet"):
        client.replay(question.id, "guard")
    execute(parts, "DELETE FROM questions WHERE id = :id", id=question.id)


def test_a_question_whose_end_nobody_saw_can_be_replayed_from_the_start(
    client: Client, parts: Parts, facts: KnowledgeBase
) -> None:
    from tasks import recovery

    question = client.question("Where does the river Volga flow?", kb=facts.name, timeout=1)
    parts.questions.submit(question)
    moment = "submitted_at = now() - interval '60 s', deadline_at = now() - interval '30 s'"
    execute(parts, f"UPDATE questions SET {moment} WHERE id = :id", id=question.id)
    recovery.reconcile_questions(parts)
    letter = parts.dead_letters.find(question.id)
    assert letter is not None
    assert (letter.stage, letter.attempts, letter.error["code"]) == ("guard", 0, "DeadlineExceeded")
    begins = client.replay_dead(question.id)
    assert "Caspian Sea" in answered(client, begins.question).text


def test_the_sweep_forgets_what_nobody_replayed_in_time(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    from tasks import recovery

    standin.configure(faults=[REFUSED])
    old = failed(client, facts)
    brief = with_(parts)
    brief.settings = parts.settings.model_copy(update={"dead_letter_days": 2.0})
    execute(parts, "UPDATE dead_letters SET failed_at = now() - interval '47 h' WHERE question_id = :id", id=old.id)
    recovery.forget_dead_letters(brief)
    assert parts.dead_letters.find(old.id) is not None
    execute(parts, "UPDATE dead_letters SET failed_at = now() - interval '49 h' WHERE question_id = :id", id=old.id)
    assert recovery.forget_dead_letters(brief) == 1
    assert parts.dead_letters.find(old.id) is None


def test_a_question_cancelled_under_way_says_how_far_it_came(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    standin.configure(held=True)
    question = submit(client, facts)
    standin.wait_for(lambda seen: seen["in_flight"] > 0)
    execute(parts, "UPDATE questions SET status = 'cancelled', finished_at = now() WHERE id = :id", id=question.id)
    standin.configure()
    tried = eventually(lambda: attempts(parts, question))
    assert tried[:4] == [(stage, 1, "") for stage in STAGES[:4]]
    assert tried[-1][2] == "Cancelled"
    record = parts.questions.find(question.id)
    assert (record.status, bool(record.passages)) == ("cancelled", True)


@pytest.mark.parametrize("stage", STAGES)
def test_a_canvas_can_begin_at_any_stage(stage: str, client: Client, parts: Parts, facts: KnowledgeBase) -> None:
    from tasks import canvases

    question = client.question("Where does the river Volga flow?", kb=facts.name, timeout=20)
    state = AskState(question=question)
    for name in STAGES[: STAGES.index(stage)]:
        state = flow.run_stage(name, state, parts, Pad())
    parts.questions.submit(question)
    canvases.ask(question, state, stage).apply_async()
    assert "Caspian Sea" in answered(client, question).text
    began = [name for name, _, _ in attempts(parts, question)]
    assert began == STAGES


def request(task: str, state: Any, **facts: object) -> Any:
    from celery.app.task import Context

    return Context({"task": task, "args": (state,), "hostname": "ask@one", "begun_at": time.time(), **facts})


class TestNotedAttempts:
    """What a message that is sent again carries, by itself."""

    @pytest.fixture
    def state(self, client: Client) -> Any:
        question = Question(id=str(uuid.uuid4()), text="Why?", submitted_at=1.0, deadline=2.0)
        return AskState(question=question, handed_over=time.time() - 0.5).encode()

    def test_waits_one_after_the_other_count_as_one(self, state: Any) -> None:
        from tasks import attempts

        waited = {"attempt": 1, "begun_at": AskState.decode(state).handed_over + 0.5}
        for seconds in (1, 2):
            (state,) = attempts.arguments_after(request("ask.embed", state, **waited), Postponed(f"Wait {seconds} s."))
        (state,) = attempts.arguments_after(request("ask.embed", state, attempt=1), ServerFault("It broke."))
        (state,) = attempts.arguments_after(request("ask.embed", state, attempt=2), Postponed("Wait."))
        first, second, third = AskState.decode(state).timings
        assert [(t.attempt, t.error) for t in (first, second, third)] == [
            (1, "Postponed: Wait 2 s."),
            (1, "ServerFault: It broke."),
            (2, "Postponed: Wait."),
        ]
        assert first.queue_ms == pytest.approx(500, abs=1)

    def test_what_failed_attempts_cost_goes_with_them(self, state: Any) -> None:
        from tasks import attempts

        asked = request("ask.generate", state)
        for tokens in (0, 5, 7):
            attempts.note_lost(asked, Usage(input_tokens=tokens, estimated_tokens=tokens, cost_usd=tokens / 100))
        (sent,) = attempts.arguments_after(asked, ServerFault("It broke."))
        lost = Usage(input_tokens=12, estimated_tokens=12, cost_usd=0.12)
        assert AskState.decode(sent).spent == lost
        again = request("ask.generate", sent)
        attempts.note_lost(again, lost)
        failure = attempts.failure_of(again, ServerFault("It broke."))
        assert failure is not None
        assert failure.usage.input_tokens == 24

    @pytest.mark.parametrize(
        ("task", "arguments"), [("ingest.embed", ({"run_id": "r"},)), ("ask.embed", ("run",)), ("ask.embed", ())]
    )
    def test_what_is_no_stage_of_a_question_is_left_alone(self, task: str, arguments: Any, client: Client) -> None:
        from tasks import attempts

        asked = request(task, None)
        asked.args = arguments
        assert attempts.arguments_after(asked, ServerFault("x")) == arguments
        assert attempts.failure_of(asked, ServerFault("x")) is None
