"""Questions that follow each other, through the broker and a real worker."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pipeline.ask import flow
from pipeline.errors import Cancelled, NotFound
from pipeline.types import AskOptions, KnowledgeBase, Question
from pipeline.wiring import Parts
from tests.installation import Pad, answer_of
from tests.standin.fixture import StandInProcess

if TYPE_CHECKING:
    from tasks.client import Client

pytestmark = [
    pytest.mark.usefixtures("worker", "standin"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery's result backend
]
FULL = "Which sea does the river Volga flow into?"
RULED = "And what does it flow into? (river Volga)"


def ask(
    client: Client, kb: KnowledgeBase, conversation: str, text: str = "And what does it flow into?", timeout: float = 30
) -> Question:
    question = client.question(text, kb=kb.name, conversation=conversation, timeout=timeout)
    client.submit(question)
    return question


answered = partial(answer_of, within=35.0)


@pytest.fixture
def conversation(client: Client, facts: KnowledgeBase) -> str:
    """One whose first question was answered."""
    begun = client.begin(kb=facts.name)
    answered(client, ask(client, facts, begun, "Where is the river Volga?"))
    return begun


def test_a_follow_up_passes_one_more_stage_and_is_the_same_as_in_one_process(
    client: Client, parts: Parts, facts: KnowledgeBase, conversation: str, standin: StandInProcess
) -> None:
    standin.configure(rewriting=FULL)
    question = ask(client, facts, conversation)
    answer = answered(client, question)
    assert answer.standalone == FULL
    assert answer.passages[0].title == "rivers"
    stages = [timing.stage for timing in answer.timings]
    assert stages == [name for name in flow.STAGES if name != "rerank"]
    numbered = parts.questions.find(question.id).question
    here = parts.questions.submit(
        client.question(question.text, kb=facts.name).model_copy(update={"turn": numbered.turn})
    )
    alike = {"question_id", "timings"}
    assert flow.run(here, parts, Pad()).model_dump(exclude=alike) == answer.model_dump(exclude=alike)


def test_the_first_question_of_a_conversation_has_nothing_to_rewrite(
    client: Client, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    answer = answered(client, ask(client, facts, client.begin(kb=facts.name), "Where does the river Volga flow?"))
    assert "transform" not in {timing.stage for timing in answer.timings}
    assert standin.counters()["calls"] == {"chat 200": 1}


def test_of_two_questions_at_once_the_second_does_not_wait_for_the_first(
    client: Client, parts: Parts, facts: KnowledgeBase, conversation: str, standin: StandInProcess
) -> None:
    standin.configure(faults=[{"kind": "hang", "endpoint": "chat", "count": 1}])
    hanging = ask(client, facts, conversation, "And where are the owls?", timeout=120)
    standin.wait_for(lambda seen: seen["streams_open"] == 1, 20)
    second = answered(client, ask(client, facts, conversation))
    assert second.standalone == "And what does it flow into? (Where is the river Volga?)"
    client.cancel(hanging.id)
    numbers = {turn.number: turn.status for turn in parts.conversations.turns(conversation, 10)}
    assert numbers == {1: "done", 2: "cancelled", 3: "done"}


def test_a_question_given_up_while_it_is_rewritten_closes_the_call(
    client: Client, facts: KnowledgeBase, conversation: str, standin: StandInProcess
) -> None:
    standin.configure(first_token=50)
    question = ask(client, facts, conversation)
    standin.wait_for(lambda seen: seen["streams_open"] == 1, 20)
    begun = time.time()
    assert client.cancel(question.id)
    seen = standin.wait_for(lambda seen: len(seen["closed_early"]) == 1)
    assert seen["closed_early"][0]["at"] - begun < 5  # of itself it would be given up after 7.5
    with pytest.raises(Cancelled):
        client.result(question.id)


def test_a_model_that_fails_leaves_the_rewriting_to_the_rule(
    client: Client, facts: KnowledgeBase, conversation: str, standin: StandInProcess
) -> None:
    standin.configure(rewriting="?")
    answer = answered(client, ask(client, facts, conversation))
    assert answer.standalone == RULED
    assert [loss.mode for loss in answer.degraded] == ["no_rewrite"]


def test_a_turn_asked_anew_takes_the_place_of_the_old_one(
    client: Client, parts: Parts, facts: KnowledgeBase, conversation: str, standin: StandInProcess
) -> None:
    first = ask(client, facts, conversation)
    answered(client, first)
    standin.configure(rewriting=FULL)
    again = client.retry(first.id)
    assert answered(client, again).standalone == FULL
    turn = parts.questions.find(again.id).question.turn
    assert turn == parts.questions.find(first.id).question.turn
    assert turn is not None
    history = parts.conversations.earlier(turn.model_copy(update={"number": 3}), limit=10, chars=1000)
    assert [said.standalone for said in history] == ["", FULL]


def test_asked_anew_no_question_is_given_what_was_answered_before(
    client: Client, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    begun, options = client.begin(kb=facts.name), AskOptions(cache=True)
    first = client.question("Where does the Volga end?", kb=facts.name, conversation=begun, options=options)
    client.submit(first)
    answered(client, first)
    answered(client, client.retry(first.id))
    assert standin.counters()["calls"] == {"chat 200": 2}


@pytest.mark.parametrize("stage", ["guard", "transform", "generate"])
def test_a_replay_of_a_follow_up_is_one_too_and_no_part_of_the_conversation(
    client: Client, parts: Parts, facts: KnowledgeBase, conversation: str, standin: StandInProcess, stage: str
) -> None:
    standin.configure(rewriting=FULL)
    question = ask(client, facts, conversation)
    answered(client, question)
    begins = client.replay(question.id, stage)
    again = answered(client, begins.question)
    assert again.standalone == FULL
    assert begins.stage == ("generate" if stage == "generate" else "guard")
    assert [turn.question_id for turn in parts.conversations.turns(conversation, 1)] == [question.id]


def test_a_follow_up_that_was_lost_is_sent_again_as_one(
    client: Client, parts: Parts, facts: KnowledgeBase, conversation: str, standin: StandInProcess
) -> None:
    """The row alone says what it needs: the canvas is made from it."""
    from tasks import canvases

    standin.configure(rewriting=FULL)
    question = client.question("And what does it flow into?", kb=facts.name, conversation=conversation)
    parts.questions.submit(question)
    epoch = parts.questions.resubmit(question.id)
    (found,) = [lost for lost in parts.questions.open_before(time.time() + 1) if lost.id == question.id]
    canvases.ask(found.model_copy(update={"epoch": epoch})).apply_async()
    assert answered(client, question).standalone == FULL


def test_a_conversation_that_is_deleted_takes_along_what_is_under_way(
    client: Client, facts: KnowledgeBase, conversation: str, standin: StandInProcess
) -> None:
    standin.configure(first_token=50)
    question = ask(client, facts, conversation)
    standin.wait_for(lambda seen: seen["streams_open"] == 1, 20)
    client.forget(conversation)
    standin.wait_for(lambda seen: len(seen["closed_early"]) == 1)
    with pytest.raises(NotFound):
        client.replay(question.id, "guard")
    with pytest.raises(NotFound):
        client.submit(client.question("Why?", kb=facts.name, conversation=conversation))
