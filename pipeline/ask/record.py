"""Stage ``record``: the answer becomes a fact, once."""

from __future__ import annotations

from typing import Protocol

from pipeline.caching.caches import is_full
from pipeline.errors import Cancelled
from pipeline.types import Answer, AskState, CacheNote


class QuestionLedger(Protocol):
    """Where questions end."""

    def finish(
        self, answer: Answer, *, kb_id: str, epoch: int, kept: CacheNote | None = None, revision: int = 0
    ) -> bool:
        """Record the answer, unless the question is over; with ``kept``, for questions like it."""

    def answer(self, question_id: str) -> Answer | None:
        """The answer on record; None while the question is open; raises the error it ended with."""


class Budget(Protocol):
    """What tenants may spend."""

    def spend(self, tenant: str, usd: float | None, tokens: int) -> None:
        """Count what a question cost that is on record already."""


def record(state: AskState, *, questions: QuestionLedger, budget: Budget | None = None) -> Answer:
    """Write the answer with its timings; where another delivery of this question was first, return that one's.

    Raises Cancelled where a later submission of the question has taken over, and the recorded error where it failed.
    """
    if state.answer is None or state.kb is None:
        raise ValueError("record comes after generate, which sets the answer")
    answer = state.answer.model_copy(update={"timings": state.timings})
    kept = state.cache if state.cache and state.cache.taken != "answer" and is_full(answer) else None
    if questions.finish(answer, kb_id=state.kb.id, epoch=state.question.epoch, kept=kept, revision=state.kb.revision):
        if budget is not None:
            budget.spend(state.question.tenant, answer.usage.cost_usd, answer.usage.tokens)
        return answer
    earlier = questions.answer(state.question.id)
    if earlier is None:
        raise Cancelled(f"Question {state.question.id} was submitted again; this delivery gives way.")
    return earlier
