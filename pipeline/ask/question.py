"""A new question: an id, a clock, and nothing that the guard would refuse."""

from __future__ import annotations

import time
import uuid

from pipeline.ask.guard import check_text
from pipeline.settings import Settings
from pipeline.types import AskOptions, Question, Turn


def new_question(
    text: str,
    settings: Settings,
    *,
    kb: str = "default",
    tenant: str = "default",
    options: AskOptions | None = None,
    timeout: float | None = None,
    turn: Turn | None = None,
) -> Question:
    """A question to be answered within ``timeout`` seconds from now; raises BadQuestion before anything is stored.

    ``turn``: it belongs to a conversation; without a number it is the next one there.
    """
    now = time.time()
    return Question(
        id=str(uuid.uuid4()),
        text=check_text(text, max_chars=settings.max_question_chars),
        tenant=tenant,
        kb=kb,
        options=options or AskOptions(top_k=settings.top_k, parents=settings.parents, strict=settings.strict),
        submitted_at=now,
        deadline=now + (settings.ask_timeout if timeout is None else timeout),
        turn=turn,
    )
