"""The end of a question, in the real ledger."""

from __future__ import annotations

import uuid

import pytest

from pipeline.ask.question import new_question
from pipeline.ask.record import record
from pipeline.errors import Cancelled, DeadlineExceeded
from pipeline.types import (
    Answer,
    AskState,
    Citation,
    Degradation,
    Flag,
    KnowledgeBase,
    Passage,
    Question,
    StageTiming,
    Usage,
)
from pipeline.wiring import Parts
from tests.installation import execute, scalars

TIMINGS = (
    StageTiming(stage="guard", queue_ms=1.5, run_ms=0.25, worker="ask@one", attempt=2),
    StageTiming(stage="generate", queue_ms=0.5, run_ms=1024.0, worker="ask@two"),
)


@pytest.fixture
def question(parts: Parts, kb: KnowledgeBase) -> Question:
    asked = new_question("What is it?", parts.settings, kb=kb.name)
    parts.questions.submit(asked)
    return asked


def written(question: Question, kb: KnowledgeBase, text: str = "It is this. [1]") -> AskState:
    place = {"chunk_id": str(uuid.uuid4()), "document_id": str(uuid.uuid4()), "title": 'A "title" 🧨', "page": 3}
    answer = Answer(
        question_id=question.id,
        outcome="answered",
        mode="generated",
        text=text,
        citations=(Citation(number=1, start=5, end=9, quote="this", **place),),
        passages=(Passage(score=0.5, vector_score=0.25, **place),),
        flags=(Flag(rule="r", where="passage 1", excerpt="…"),),
        degraded=(Degradation(mode="no_rerank", stage="rerank", reason="It was down."),),
        usage=Usage(model="m", input_tokens=7, output_tokens=5, embedding_tokens=2, cost_usd=0.00125),
    )
    return AskState(question=question, kb=kb, answer=answer, timings=TIMINGS)


def test_what_is_recorded_is_what_is_read_back(parts: Parts, kb: KnowledgeBase, question: Question) -> None:
    answer = record(written(question, kb), questions=parts.questions)
    assert answer.timings == TIMINGS
    found = parts.questions.find(question.id)
    assert found.answer == answer
    assert found.question.text == "What is it?"
    assert (found.status, found.error) == ("done", None)


def test_a_second_delivery_gets_the_first_ones_answer_and_writes_nothing(
    parts: Parts, kb: KnowledgeBase, question: Question
) -> None:
    first = record(written(question, kb), questions=parts.questions)
    again = record(written(question, kb, "Something else. [1]"), questions=parts.questions)
    assert again == first
    rows = "SELECT stage FROM stage_timings WHERE question_id = :id ORDER BY ordinal"
    assert scalars(parts, rows, id=question.id) == ["guard", "generate"]


def test_a_delivery_that_a_later_submission_has_overtaken_gives_way(
    parts: Parts, kb: KnowledgeBase, question: Question
) -> None:
    epoch = parts.questions.resubmit(question.id)
    with pytest.raises(Cancelled, match="submitted again"):
        record(written(question, kb, "Too late. [1]"), questions=parts.questions)
    assert parts.questions.find(question.id).status == "queued"
    newer = question.model_copy(update={"epoch": epoch})
    assert record(written(newer, kb), questions=parts.questions).text == "It is this. [1]"


def test_and_once_the_later_one_is_done_gets_its_answer(parts: Parts, kb: KnowledgeBase, question: Question) -> None:
    newer = question.model_copy(update={"epoch": parts.questions.resubmit(question.id)})
    answer = record(written(newer, kb), questions=parts.questions)
    assert record(written(question, kb, "Too late. [1]"), questions=parts.questions) == answer


def test_a_question_that_has_failed_can_not_be_done(parts: Parts, kb: KnowledgeBase, question: Question) -> None:
    assert parts.questions.fail(question.id, DeadlineExceeded("No answer came in time."), epoch=0)
    with pytest.raises(DeadlineExceeded, match="No answer came in time"):
        record(written(question, kb), questions=parts.questions)
    assert parts.questions.find(question.id).status == "failed"


def test_a_question_that_was_cancelled_can_not_be_done(parts: Parts, kb: KnowledgeBase, question: Question) -> None:
    execute(parts, "UPDATE questions SET status = 'cancelled' WHERE id = :id", id=question.id)
    with pytest.raises(Cancelled):
        record(written(question, kb), questions=parts.questions)
    assert parts.questions.find(question.id).status == "cancelled"


def test_it_comes_after_generate(parts: Parts, kb: KnowledgeBase, question: Question) -> None:
    with pytest.raises(ValueError, match="generate"):
        record(AskState(question=question, kb=kb), questions=parts.questions)
