"""Retrieval alone: what a question would be answered from."""

from __future__ import annotations

import time

from pipeline.ask.flow import RETRIEVAL, run_stage
from pipeline.seams import AnswerWriter
from pipeline.types import AskState, Question
from pipeline.wiring import Parts


def run(question: Question, parts: Parts) -> AskState:
    """The state after ``rerank``: its passages, with text, are the best first."""
    state = AskState(question=question, handed_over=time.time())
    for name in RETRIEVAL:
        state = run_stage(name, state, parts, _NoAnswer())
    if state.kb is None or not state.passages:
        return state
    texts = parts.passages.texts(state.kb.id, [passage.chunk_id for passage in state.passages])
    return state.but(passages=tuple(p.model_copy(update={"text": texts.get(p.chunk_id, "")}) for p in state.passages))


class _NoAnswer:
    def open(self, question_id: str, attempt: int) -> AnswerWriter:
        raise NotImplementedError("retrieval writes no answer")
