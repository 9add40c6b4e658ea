"""A question that fails at a stage: its row, its dead letter, and what can be made of that."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.errors import Conflict, InternalFault, NotFound, ServerFault
from pipeline.types import (
    Answer,
    AskState,
    Degradation,
    Flag,
    KnowledgeBase,
    Passage,
    Question,
    Replay,
    StageFailure,
    StageTiming,
    Usage,
)
from pipeline.wiring import Parts
from tests.installation import execute, scalars

TIMINGS = (
    StageTiming(stage="embed", queue_ms=1.5, run_ms=20.0, worker="ask@one"),
    StageTiming(stage="generate", queue_ms=0.5, run_ms=30.0, worker="ask@two", attempt=1, error="ServerFault: No."),
    StageTiming(stage="generate", queue_ms=200.0, run_ms=40.0, worker="ask@one", attempt=2, error="ServerFault: No."),
)
LOSS = Degradation(mode="no_rerank", stage="rerank", reason="It is down.")
PASSAGE = Passage(chunk_id=str(uuid.uuid4()), document_id=str(uuid.uuid4()), title="T", score=0.5, vector_score=0.25)
FLAG = Flag(rule="override", where="question", excerpt="ignore")


@pytest.fixture
def tenant() -> str:
    return f"tenant-{uuid.uuid4().hex}"


def submitted(parts: Parts, tenant: str = "default", **changes: object) -> Question:
    now = time.time()
    asked = Question(id=str(uuid.uuid4()), text="Why?", tenant=tenant, submitted_at=now, deadline=now + 60)
    asked = asked.model_copy(update=changes)
    parts.questions.submit(asked)
    return asked


def failure(asked: Question, **changes: object) -> StageFailure:
    state = AskState(question=asked, passages=(PASSAGE,), flags=(FLAG,), degraded=(LOSS,))
    state = state.but(timings=TIMINGS, spent=Usage(embedding_tokens=7)).but(**changes)
    return StageFailure(stage="generate", task="ask.generate", attempts=2, worker="ask@one", state=state)


def dead(parts: Parts, tenant: str = "default", cause: type[InternalFault | ServerFault] = ServerFault) -> Question:
    asked = submitted(parts, tenant)
    assert parts.questions.fail(asked.id, cause("It broke."), epoch=0, failure=failure(asked))
    return asked


def again(asked: Question) -> Question:
    origin = Replay(of=asked.id, stage="generate")
    return asked.model_copy(update={"id": str(uuid.uuid4()), "replay": origin})


class TestFailing:
    def test_the_row_says_how_far_it_came(self, parts: Parts, kb: KnowledgeBase) -> None:
        asked = submitted(parts)
        error = ServerFault("It broke.", "Wait.", {"status": 500})
        assert parts.questions.fail(asked.id, error, epoch=0, failure=failure(asked, kb=kb))
        found = parts.questions.find(asked.id)
        assert (found.status, found.kb_id, found.error) == ("failed", kb.id, error.to_json())
        assert (found.timings, found.passages, found.flags) == (TIMINGS, (PASSAGE,), (FLAG,))
        assert (found.degraded, found.usage.embedding_tokens) == ((LOSS,), 7)
        assert found.finished_at == pytest.approx(time.time(), abs=30)

    def test_what_the_model_was_paid_for_an_answer_that_could_not_be_recorded_is_on_the_row(self, parts: Parts) -> None:
        asked = submitted(parts)
        usage = Usage(model="m", input_tokens=3, output_tokens=4, embedding_tokens=7, cost_usd=0.25)
        answer = Answer(question_id=asked.id, outcome="answered", mode="generated", text="So.", usage=usage)
        assert parts.questions.fail(asked.id, ServerFault("x"), epoch=0, failure=failure(asked, answer=answer))
        assert parts.questions.find(asked.id).usage == usage

    def test_the_letter_holds_the_stage_and_what_it_was_given(self, parts: Parts, tenant: str) -> None:
        asked = dead(parts, tenant)
        (letter,) = parts.dead_letters.list(tenant=tenant)
        assert letter == parts.dead_letters.find(asked.id)
        assert (letter.stage, letter.task, letter.attempts, letter.worker) == ("generate", "ask.generate", 2, "ask@one")
        assert (letter.error["code"], letter.text, letter.replayed_as) == ("ServerFault", "Why?", None)
        assert parts.dead_letters.state(asked.id) == ("generate", failure(asked).state)

    def test_a_question_fails_once_and_an_overtaken_submission_leaves_nothing(self, parts: Parts, tenant: str) -> None:
        asked = submitted(parts, tenant)
        assert parts.questions.resubmit(asked.id) == 1
        for epoch, fails in ((0, False), (1, True), (1, False)):
            assert parts.questions.fail(asked.id, ServerFault("x"), epoch=epoch, failure=failure(asked)) is fails
            assert len(parts.dead_letters.list(tenant=tenant)) == int(epoch == 1)

    def test_a_failure_of_which_nothing_is_known_leaves_no_letter(self, parts: Parts) -> None:
        asked = submitted(parts)
        assert parts.questions.fail(asked.id, ServerFault("x"), epoch=0)
        assert parts.dead_letters.find(asked.id) is None
        with pytest.raises(NotFound, match=asked.id):
            parts.dead_letters.state(asked.id)

    @pytest.mark.parametrize("text", ["a\0b", "a\ud800b"], ids=["NUL", "half a character"])
    def test_what_postgres_refuses_does_not_keep_a_question_from_its_end(self, text: str, parts: Parts) -> None:
        """It may be what made the stage fail: such an answer can't be recorded."""
        asked = submitted(parts)
        answer = Answer(question_id=asked.id, outcome="answered", mode="generated", text=text)
        assert parts.questions.fail(asked.id, InternalFault("x"), epoch=0, failure=failure(asked, answer=answer))
        _, state = parts.dead_letters.state(asked.id)
        assert state.answer is not None
        assert (state.answer.text[0], state.answer.text[-1]) == ("a", "b")

    def test_a_cancelled_question_is_told_once_how_far_it_came(self, parts: Parts) -> None:
        asked, open_one = submitted(parts), submitted(parts)
        execute(parts, "UPDATE questions SET status = 'cancelled' WHERE id = :id", id=asked.id)
        told = [parts.questions.note_cancelled(q.id, epoch=0, failure=failure(q)) for q in (asked, open_one, asked)]
        assert told == [True, False, False]
        found = parts.questions.find(asked.id)
        assert (found.status, found.timings, found.passages) == ("cancelled", TIMINGS, (PASSAGE,))
        assert parts.questions.find(open_one.id).timings == ()
        assert parts.dead_letters.find(asked.id) is None


class TestListing:
    def test_the_newest_come_first_by_tenant_cause_and_time(self, parts: Parts, tenant: str) -> None:
        first, second, third = (dead(parts, tenant, cause) for cause in (ServerFault, InternalFault, ServerFault))
        dead(parts, f"{tenant}-other")
        execute(
            parts, "UPDATE dead_letters SET failed_at = failed_at - interval '2 h' WHERE question_id = :id", id=first.id
        )
        ids = [letter.question_id for letter in parts.dead_letters.list(tenant=tenant)]
        assert ids == [third.id, second.id, first.id]
        assert [x.question_id for x in parts.dead_letters.list(tenant=tenant, limit=1)] == [third.id]
        by_cause = parts.dead_letters.list(tenant=tenant, cause="ServerFault")
        assert [letter.question_id for letter in by_cause] == [third.id, first.id]
        since = datetime.now(UTC) - timedelta(hours=1)
        assert [x.question_id for x in parts.dead_letters.list(tenant=tenant, since=since)] == [third.id, second.id]

    def test_without_a_tenant_all_are_listed(self, parts: Parts, tenant: str) -> None:
        here, there = dead(parts, tenant), dead(parts, f"{tenant}-other")
        listed = {letter.question_id for letter in parts.dead_letters.list(limit=1000)}
        assert {here.id, there.id} <= listed


class TestReplaying:
    def test_a_letter_serves_once_and_the_question_it_becomes_points_to_it(self, parts: Parts, tenant: str) -> None:
        asked = dead(parts, tenant)
        first, second = again(asked), again(asked)
        assert parts.dead_letters.replay(first)
        assert not parts.dead_letters.replay(second)
        letter = parts.dead_letters.find(asked.id)
        assert letter is not None
        assert letter.replayed_as == first.id
        assert parts.questions.find(first.id).question.replay == Replay(of=asked.id, stage="generate")
        assert parts.questions.replays(asked.id) == [first.id]
        assert parts.dead_letters.list(tenant=tenant, replayed=False) == []
        with pytest.raises(NotFound):
            parts.questions.find(second.id)

    def test_one_that_was_never_sent_gives_the_letter_back(self, parts: Parts, tenant: str) -> None:
        asked = dead(parts, tenant)
        replay = again(asked)
        assert parts.dead_letters.replay(replay)
        parts.dead_letters.release(asked.id, str(uuid.uuid4()))
        assert parts.dead_letters.list(tenant=tenant, replayed=False) == []
        parts.dead_letters.release(asked.id, replay.id)
        assert [letter.question_id for letter in parts.dead_letters.list(tenant=tenant, replayed=False)] == [asked.id]

    def test_an_id_in_use_leaves_the_letter_at_rest(self, parts: Parts, tenant: str) -> None:
        asked = dead(parts, tenant)
        with pytest.raises(Conflict):
            parts.dead_letters.replay(again(asked).model_copy(update={"id": asked.id}))
        assert len(parts.dead_letters.list(tenant=tenant, replayed=False)) == 1

    def test_what_another_release_wrote_is_refused_with_the_way_out(self, parts: Parts) -> None:
        asked = dead(parts)
        execute(
            parts,
            """UPDATE dead_letters SET state = state || '{"unheard_of": 1}' WHERE question_id = :id""",
            id=asked.id,
        )
        with pytest.raises(Conflict, match="another release") as caught:
            parts.dead_letters.state(asked.id)
        assert f"replay {asked.id} --from guard" in caught.value.hint


class TestForgetting:
    def test_what_is_too_old_goes_some_at_a_time_and_its_question_stays(self, parts: Parts, tenant: str) -> None:
        """Older than any letter of another test, and so the only ones that go."""
        old = [dead(parts, tenant) for _ in range(3)]
        fresh = dead(parts, tenant)
        execute(
            parts,
            "UPDATE dead_letters SET failed_at = now() - interval '9 y' WHERE question_id = ANY(CAST(:ids AS uuid[]))",
            ids=[asked.id for asked in old],
        )
        years = 8 * 365 * 86_400.0
        assert [parts.dead_letters.expire(years, limit=2) for _ in range(3)] == [2, 1, 0]
        assert [letter.question_id for letter in parts.dead_letters.list(tenant=tenant)] == [fresh.id]
        assert {parts.questions.find(asked.id).status for asked in old} == {"failed"}

    def test_one_is_dropped_once(self, parts: Parts) -> None:
        asked = dead(parts)
        assert [parts.dead_letters.drop(asked.id), parts.dead_letters.drop(asked.id)] == [True, False]

    def test_deleting_a_question_takes_its_letter_along(self, parts: Parts) -> None:
        asked = dead(parts)
        execute(parts, "DELETE FROM questions WHERE id = :id", id=asked.id)
        assert scalars(parts, "SELECT question_id::text FROM dead_letters WHERE question_id = :id", id=asked.id) == []


def test_a_question_is_found_by_the_beginning_of_its_id(parts: Parts) -> None:
    asked = submitted(parts)
    assert parts.questions.matching(asked.id[:13].upper()) == [asked.id]
    assert parts.questions.matching(str(uuid.uuid4())[:20]) == []
