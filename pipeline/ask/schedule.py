"""How much of a question's time each stage may use.

A stage that has something lesser to fall back on ends early enough for those after it; one that has not may use all the
time there is, since without it there is no answer at all.
"""

from __future__ import annotations

from pipeline.types import Question

LEFT_AFTER = {"transform": 0.75, "embed": 0.55, "rerank": 0.3, "generate": 0.05}
"""Share of the whole time that is to be left when the stage ends."""

FALLBACK_SECONDS = 2.0
"""At least so much, or a quarter of the time where that is less, is kept for what comes instead of an answer; it may
have to wait for its turn, too."""

LEAST = 0.1
"""Seconds below which such a stage is not begun."""

BRIEF_BELOW = 4.0
"""Seconds for the whole answer below which the model is asked to be brief."""


def ends_at(stage: str, question: Question) -> float:
    """When the stage must have ended, in Unix seconds."""
    share = LEFT_AFTER.get(stage)
    if share is None:
        return question.deadline
    whole = question.deadline - question.submitted_at
    return question.deadline - max(share * whole, min(FALLBACK_SECONDS, whole / 4))


def left(stage: str, question: Question, now: float) -> float:
    """Seconds that the stage may take from ``now`` on; 0 where its time is over."""
    return max(0.0, ends_at(stage, question) - now)
