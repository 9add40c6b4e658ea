"""The part of stage ``guard`` that takes what a cache has."""

from __future__ import annotations

from pipeline.caching.caches import Found
from pipeline.seams import AnswerSink
from pipeline.types import Answer, AskState, CacheNote, StageTiming

_MADE_BY = {"answer": "generate", "retrieval": "search", "vector": "embed"}


def recall(state: AskState, note: CacheNote, found: Found | None) -> AskState:
    """The question with what was found for it; the stage that would have made it is said to come from a cache."""
    if found is None:
        return state.but(cache=note)
    timing = StageTiming(stage=_MADE_BY[found.result], cached=found.level)
    state = state.but(cache=note.model_copy(update={"taken": found.result}), timings=(*state.timings, timing))
    if isinstance(found.value, Answer):
        return state.but(answer=answer_for(state, found.value))
    return state.but(vector=found.value) if isinstance(found.value, str) else state.but(passages=found.value)


def answer_for(state: AskState, answer: Answer) -> Answer:
    """The answer of another question as that of this one, which pays for what it has used itself."""
    own = {"question_id": state.question.id, "degraded": state.degraded, "usage": answer.usage.plus(state.spent)}
    return answer.model_copy(update=own)


def tell(answer: Answer, sink: AnswerSink, attempt: int) -> None:
    """Give readers an answer that is there already."""
    writer = sink.open(answer.question_id, attempt)
    writer.write(answer.text)
    writer.flush()
