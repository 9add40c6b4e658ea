"""The ledger by itself; how a question ends is in ``tests/unit/pipeline/ask/test_record.py``."""

from __future__ import annotations

import time
import uuid

import pytest

from pipeline.errors import Cancelled, Conflict, InternalFault, NotFound, RateLimited
from pipeline.types import Answer, AskOptions, Question
from pipeline.wiring import Parts

AWKWARD = "Größe 🧨👩‍👩‍👧‍👦 “quoted” 'single' \"double\" \\back %s {brace}\n\ttab"


def question(**changes: object) -> Question:
    now = time.time()
    base = Question(id=str(uuid.uuid4()), text=AWKWARD, submitted_at=now, deadline=now + 60)
    return base.model_copy(update=changes)


def answer(to: Question, text: str = "It is this.") -> Answer:
    return Answer(question_id=to.id, outcome="answered", mode="generated", text=text)


def submitted(parts: Parts, **changes: object) -> Question:
    asked = question(**changes)
    parts.questions.submit(asked)
    return asked


def test_a_question_is_read_back_as_it_was_put(parts: Parts) -> None:
    options = AskOptions(top_k=9, min_score=0.25, alpha=0.5, fusion="rrf", model="m", verbosity="low")
    asked = submitted(parts, tenant="acme", kb=AWKWARD, options=options)
    found = parts.questions.find(asked.id)
    assert (found.status, found.answer, found.error) == ("queued", None, None)
    assert found.question.model_copy(update={"submitted_at": 0, "deadline": 0}) == asked.model_copy(
        update={"submitted_at": 0, "deadline": 0}
    )
    assert found.question.submitted_at == pytest.approx(asked.submitted_at, abs=1e-5)
    assert found.question.deadline == pytest.approx(asked.deadline, abs=1e-5)


def test_an_id_is_used_once(parts: Parts) -> None:
    asked = submitted(parts)
    with pytest.raises(Conflict, match=asked.id):
        parts.questions.submit(asked.model_copy(update={"text": "Another one?"}))
    assert parts.questions.find(asked.id).question.text == AWKWARD


def test_an_unknown_question_is_not_there(parts: Parts) -> None:
    with pytest.raises(NotFound):
        parts.questions.find(str(uuid.uuid4()))


@pytest.mark.parametrize("text", [AWKWARD, "x" * 2_000_000, ""])
def test_an_answer_is_read_back_to_the_character(text: str, parts: Parts) -> None:
    asked = submitted(parts)
    assert parts.questions.answer(asked.id) is None
    assert parts.questions.finish(answer(asked, text), kb_id=str(uuid.uuid4()), epoch=0)
    assert parts.questions.answer(asked.id) == answer(asked, text)


def test_a_nul_in_an_answer_can_not_get_in_and_leaves_the_question_open(parts: Parts) -> None:
    asked = submitted(parts)
    with pytest.raises(InternalFault, match="NUL") as caught:
        parts.questions.finish(answer(asked, "a\0b"), kb_id=str(uuid.uuid4()), epoch=0)
    assert len(str(caught.value).splitlines()) == 1
    assert parts.questions.find(asked.id).status == "queued"
    assert parts.questions.fail(asked.id, caught.value, epoch=0)


def test_a_failed_question_raises_what_it_failed_with(parts: Parts) -> None:
    asked = submitted(parts)
    assert parts.questions.fail(asked.id, RateLimited("Slow down.", "Wait.", {"retry_after": 3}), epoch=0)
    with pytest.raises(RateLimited) as caught:
        parts.questions.answer(asked.id)
    assert (caught.value.message, caught.value.hint, caught.value.retry_after) == ("Slow down.", "Wait.", 3.0)


def test_the_first_end_is_final(parts: Parts) -> None:
    done, failed = submitted(parts), submitted(parts)
    assert parts.questions.finish(answer(done), kb_id=str(uuid.uuid4()), epoch=0)
    assert parts.questions.fail(failed.id, InternalFault("It broke."), epoch=0)
    for asked in (done, failed):
        assert not parts.questions.finish(answer(asked, "Later."), kb_id=str(uuid.uuid4()), epoch=0)
        assert not parts.questions.fail(asked.id, InternalFault("Later."), epoch=0)
        assert parts.questions.resubmit(asked.id) is None
    assert parts.questions.answer(done.id) == answer(done)
    assert parts.questions.find(failed.id).status == "failed"


def test_only_the_newest_submission_may_end_it(parts: Parts) -> None:
    asked = submitted(parts)
    assert [parts.questions.resubmit(asked.id), parts.questions.resubmit(asked.id)] == [1, 2]
    for epoch in (0, 1):
        assert not parts.questions.fail(asked.id, InternalFault("Overtaken."), epoch=epoch)
        assert not parts.questions.finish(answer(asked), kb_id=str(uuid.uuid4()), epoch=epoch)
    assert parts.questions.find(asked.id).question.epoch == 2
    assert parts.questions.finish(answer(asked), kb_id=str(uuid.uuid4()), epoch=2)


def test_open_questions_are_found_oldest_first(parts: Parts) -> None:
    """A time long ago, so that questions of other tests are none of these."""
    old = [submitted(parts, submitted_at=1_000.0 + n, deadline=2_000.0) for n in (2, 0, 1)]
    ended = submitted(parts, submitted_at=1_000.5, deadline=2_000.0)
    parts.questions.fail(ended.id, InternalFault("It broke."), epoch=0)
    found = [asked.id for asked in parts.questions.open_before(1_002.0)]
    assert found == [old[1].id, old[2].id]
    for asked in old:
        parts.questions.fail(asked.id, InternalFault("Over."), epoch=0)


# --------------------------------------------------------------------------- cancelling


def test_a_cancelled_question_is_over_for_good(parts: Parts) -> None:
    asked = submitted(parts)
    assert parts.questions.cancel(asked.id)
    assert not parts.questions.finish(answer(asked), kb_id=str(uuid.uuid4()), epoch=0)
    assert not parts.questions.fail(asked.id, InternalFault("It broke."), epoch=0)
    assert parts.questions.resubmit(asked.id) is None
    assert not parts.questions.cancel(asked.id)
    found = parts.questions.find(asked.id)
    assert (found.status, found.answer) == ("cancelled", None)
    with pytest.raises(Cancelled):
        parts.questions.answer(asked.id)


def test_what_is_over_can_not_be_cancelled(parts: Parts) -> None:
    answered, failed = submitted(parts), submitted(parts)
    parts.questions.finish(answer(answered), kb_id=str(uuid.uuid4()), epoch=0)
    parts.questions.fail(failed.id, InternalFault("It broke."), epoch=0)
    assert not parts.questions.cancel(answered.id)
    assert not parts.questions.cancel(failed.id)
    assert not parts.questions.cancel(str(uuid.uuid4()))
    assert [parts.questions.find(asked.id).status for asked in (answered, failed)] == ["done", "failed"]


def test_a_question_is_cancelled_whatever_its_epoch(parts: Parts) -> None:
    asked = submitted(parts)
    parts.questions.resubmit(asked.id)
    assert parts.questions.cancel(asked.id)


def test_cancelled_questions_are_listed_until_their_deadline_and_not_sent_again(parts: Parts) -> None:
    under_way, late, open_one = submitted(parts), submitted(parts, deadline=time.time() - 1), submitted(parts)
    parts.questions.cancel(under_way.id)
    parts.questions.cancel(late.id)
    ids = {under_way.id, late.id, open_one.id}
    assert ids & set(parts.questions.cancelled()) == {under_way.id}
    assert ids & {question.id for question in parts.questions.open_before(time.time() + 1)} == {open_one.id}
