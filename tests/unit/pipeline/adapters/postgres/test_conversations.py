"""The history of a conversation is its questions: how they are numbered, and which of them count."""

from __future__ import annotations

import threading
import time
import uuid

import pytest

from pipeline.errors import BadSettings, Conflict, InternalFault, NotFound
from pipeline.types import Answer, Exchange, Question, Replay, Turn
from pipeline.wiring import Parts


def begun(parts: Parts, tenant: str = "default", kb: str = "default") -> str:
    return parts.conversations.begin(tenant, kb)


def submitted(parts: Parts, conversation: str, text: str = "Why?", number: int = 0, **changes: object) -> Question:
    now = time.time()
    turn = Turn(conversation=conversation, number=number)
    asked = Question(id=str(uuid.uuid4()), text=text, submitted_at=now, deadline=now + 60, turn=turn)
    return parts.questions.submit(asked.model_copy(update=changes))


def answered(parts: Parts, asked: Question, text: str = "So.", standalone: str = "") -> None:
    answer = Answer(question_id=asked.id, outcome="answered", mode="generated", text=text, standalone=standalone)
    assert parts.questions.finish(answer, kb_id=str(uuid.uuid4()), epoch=0)


def number(asked: Question) -> int:
    assert asked.turn is not None
    return asked.turn.number


def before(parts: Parts, conversation: str, turn: int, limit: int = 10, chars: int = 1000) -> list[Exchange]:
    place = Turn(conversation=conversation, number=turn)
    return list(parts.conversations.earlier(place, limit=limit, chars=chars))


def test_questions_are_numbered_in_the_order_they_come(parts: Parts) -> None:
    one, other = begun(parts), begun(parts)
    found = [number(submitted(parts, to)) for to in (one, other, one, one)]
    assert found == [1, 1, 2, 3]
    assert parts.conversations.find(one, "default").turns == 3


def test_questions_asked_at_once_get_different_numbers(parts: Parts) -> None:
    conversation, found = begun(parts), []
    start = threading.Barrier(4, timeout=10)

    def ask() -> None:
        start.wait()
        found.extend(number(submitted(parts, conversation)) for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(found) == list(range(1, 21))


def test_a_question_is_read_back_with_its_turn_and_what_it_was_rewritten_to(parts: Parts) -> None:
    conversation = begun(parts)
    submitted(parts, conversation)
    asked = submitted(parts, conversation)
    answered(parts, asked, standalone="Why is it so?")
    record = parts.questions.find(asked.id)
    assert record.question.turn == Turn(conversation=conversation, number=2)
    assert record.standalone == "Why is it so?"
    assert record.answer is not None
    assert record.answer.standalone == "Why is it so?"


def test_the_history_of_a_turn_is_what_was_answered_before_it_oldest_first(parts: Parts) -> None:
    conversation = begun(parts)
    first, second, failed, cancelled, still_open = (submitted(parts, conversation, f"Q{n}?") for n in range(1, 6))
    answered(parts, first, "A" * 50)
    answered(parts, second, "B", standalone="Q2 in full?")
    parts.questions.fail(failed.id, InternalFault("It broke."), epoch=0)
    parts.questions.cancel(cancelled.id)
    assert number(still_open) == 5
    assert before(parts, conversation, 6, chars=10) == [
        Exchange(number=1, question="Q1?", answer="A" * 10),
        Exchange(number=2, question="Q2?", standalone="Q2 in full?", answer="B"),
    ]
    assert [turn.number for turn in before(parts, conversation, 6, limit=1)] == [2]
    assert [turn.number for turn in before(parts, conversation, 2)] == [1]
    assert before(parts, conversation, 1) == []


def test_asked_anew_a_turn_is_what_was_answered_last(parts: Parts) -> None:
    conversation = begun(parts)
    first = submitted(parts, conversation)
    answered(parts, first, "Old.")
    again = submitted(parts, conversation, number=1)
    assert number(again) == 1
    assert [turn.answer for turn in before(parts, conversation, 2)] == ["Old."], "until the new one is answered"
    answered(parts, again, "New.")
    assert [turn.answer for turn in before(parts, conversation, 2)] == ["New."]
    assert number(submitted(parts, conversation)) == 2, "it took no number of its own"


def test_a_replay_is_no_part_of_the_conversation(parts: Parts) -> None:
    conversation = begun(parts)
    first = submitted(parts, conversation)
    answered(parts, first, "Said.")
    replay = submitted(parts, conversation, number=1, replay=Replay(of=first.id, stage="guard"))
    answered(parts, replay, "Tried.")
    assert [turn.answer for turn in before(parts, conversation, 2)] == ["Said."]
    assert [turn.question_id for turn in parts.conversations.turns(conversation, 10)] == [first.id]


def test_all_that_was_asked_is_shown_with_what_became_of_it(parts: Parts) -> None:
    conversation = begun(parts)
    first, second = submitted(parts, conversation, "Q1?"), submitted(parts, conversation, "Q2?")
    answered(parts, first, "A1")
    parts.questions.fail(second.id, InternalFault("It broke."), epoch=0)
    shown = parts.conversations.turns(conversation, 10)
    assert [(t.number, t.question, t.status, t.answer) for t in shown] == [
        (1, "Q1?", "done", "A1"),
        (2, "Q2?", "failed", ""),
    ]
    assert (shown[1].error or {})["code"] == "InternalFault"
    assert [t.number for t in parts.conversations.turns(conversation, 1)] == [2]


def test_another_tenants_conversation_is_not_there(parts: Parts) -> None:
    conversation = begun(parts, tenant="acme")
    with pytest.raises(NotFound, match="'default' has no conversation"):
        submitted(parts, conversation)
    with pytest.raises(NotFound):
        parts.conversations.find(conversation, "default")
    with pytest.raises(NotFound):
        parts.conversations.delete(conversation, "default")
    assert parts.conversations.find(conversation, "acme").turns == 0


def test_a_conversation_stays_with_its_knowledge_base(parts: Parts) -> None:
    conversation = begun(parts, kb="manuals")
    with pytest.raises(BadSettings, match="'manuals', not 'default'"):
        submitted(parts, conversation)


@pytest.mark.parametrize("conversation", ["", "last", "x" * 500, "00000000-0000-4000-8000-000000000000"])
def test_an_id_of_none_is_refused_in_one_line(parts: Parts, conversation: str) -> None:
    for refused in (lambda: submitted(parts, conversation), lambda: parts.conversations.find(conversation, "default")):
        with pytest.raises(NotFound) as caught:
            refused()
        assert len(str(caught.value).splitlines()) == 1


def test_an_id_in_use_is_refused_in_a_conversation_too(parts: Parts) -> None:
    conversation = begun(parts)
    first = submitted(parts, conversation)
    with pytest.raises(Conflict, match=first.id):
        submitted(parts, conversation, id=first.id)


def test_those_used_last_are_listed_first_by_their_first_question(parts: Parts) -> None:
    tenant = f"t-{uuid.uuid4().hex}"
    older, newer, empty = (begun(parts, tenant) for _ in range(3))
    for to, text in ((newer, "Newer?"), (older, "Older?"), (older, "More?")):
        submitted(parts, to, text, tenant=tenant)
    listed = parts.conversations.list(tenant, 2)
    assert [(c.id, c.title, c.turns) for c in listed] == [(older, "Older?", 2), (newer, "Newer?", 1)]
    assert parts.conversations.find(empty, tenant).title == ""


def test_a_deleted_conversation_takes_its_questions_along(parts: Parts) -> None:
    conversation = begun(parts)
    asked = submitted(parts, conversation)
    parts.conversations.delete(conversation, "default")
    with pytest.raises(NotFound):
        parts.questions.find(asked.id)
    with pytest.raises(NotFound):
        parts.conversations.delete(conversation, "default")


@pytest.mark.parametrize("name", ["nonsense", "764fff54-b1e5-4ec0-ad81-8fd3e8759a07"])
def test_where_one_is_missing_the_command_to_type_is_about_its_tenant(parts: Parts, name: str) -> None:
    with pytest.raises(NotFound) as missing:
        parts.conversations.find(name, "it's")
    assert missing.value.hint == """`manage.py conversations list --tenant 'it'"'"'s'` shows all."""
