"""Stage ``record``: the answer becomes a fact, once."""

from __future__ import annotations

from typing import Protocol

from pipeline.errors import Cancelled
from pipeline.types import Answer, AskState


class QuestionLedger(Protocol):
    """Where questions end."""

    def finish(self, answer: Answer, *, kb_id: str, epoch: int) -> bool:
        """Record the answer, unless the question is over."""

    def answer(self, question_id: str) -> Answer | None:
        """The answer on record; None while the question is open; raises the error it ended with."""


def record(state: AskState, *, questions: QuestionLedger) -> Answer:
    """Write the answer with its timings; where another delivery of this question was first, return that one's.

    Raises Cancelled where a later submission of the question has taken over, and the recorded error where it failed.
    """
    if state.answer is None or state.kb is None:
        raise ValueError("record comes after generate, which sets the answer")
    answer = state.answer.model_copy(update={"timings": state.timings})
    if questions.finish(answer, kb_id=state.kb.id, epoch=state.question.epoch):
        return answer
    earlier = questions.answer(state.question.id)
    if earlier is None:
        raise Cancelled(f"Question {state.question.id} was submitted again; this delivery gives way.")
    return earlier
