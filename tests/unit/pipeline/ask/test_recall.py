"""What a cache has, as the answer to another question."""

from __future__ import annotations

from pipeline.ask.recall import answer_for
from pipeline.types import Answer, AskState, Question, Usage


def test_an_answer_of_before_costs_what_this_question_has_used_itself() -> None:
    asked = Question(id="new", text="Why?", submitted_at=0, deadline=9)
    before = Answer(
        question_id="old", outcome="answered", mode="generated", text="So.", usage=Usage(model="m", cost_usd=0.0)
    )
    spent = Usage(embedding_tokens=5, input_tokens=7, estimated_tokens=7, cost_usd=0.25)
    given = answer_for(AskState(question=asked, spent=spent), before)
    assert given.question_id == "new"
    assert given.usage == spent.model_copy(update={"model": "m"})
