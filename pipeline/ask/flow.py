"""A question from start to end, in one process: the same stages, in the same order, as the canvas."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.ask.generate import generate
from pipeline.ask.guard import guard
from pipeline.ask.record import record
from pipeline.errors import DeadlineExceeded
from pipeline.retrieve.embed import embed
from pipeline.retrieve.enrich import RERANK_DEPTH, enrich
from pipeline.retrieve.reading import read
from pipeline.retrieve.rerank import rerank
from pipeline.retrieve.search import search
from pipeline.seams import AnswerSink
from pipeline.types import Answer, AskState, Question, StageTiming
from pipeline.wiring import Parts

RETRIEVAL = ("guard", "embed", "search", "enrich", "rerank")
STAGES = (*RETRIEVAL, "generate", "record")

Stage = Callable[[AskState, Parts, AnswerSink | None, int], AskState]


def run(question: Question, parts: Parts, sink: AnswerSink) -> Answer:
    """Ask without a broker: every stage here and now. Raises what a stage raises."""
    state = AskState(question=question, handed_over=time.time())
    for name in STAGES[:-1]:
        state = run_stage(name, state, parts, sink)
    return finish(state, parts)


def retrieve(question: Question, parts: Parts) -> AskState:
    """What a question would be answered from: the state after ``rerank``, its passages with text, the best first."""
    state = AskState(question=question, handed_over=time.time())
    for name in RETRIEVAL:
        state = run_stage(name, state, parts)
    if state.kb is None:
        return state
    return state.but(passages=read(state.passages, state.kb.id, texts=parts.passages, parents=question.options.parents))


def run_stage(
    name: str,
    state: AskState,
    parts: Parts,
    sink: AnswerSink | None = None,
    *,
    worker: str = "local",
    attempt: int = 1,
) -> AskState:
    """One stage, timed, if there is time left for it; ``sink`` takes the answer, by default the stream in Redis."""
    started = time.time()
    if started >= state.question.deadline:
        raise DeadlineExceeded(f"Time was over before stage {name!r}.")
    begun = time.perf_counter()
    after = _STAGES[name](state, parts, sink, attempt)
    timing = StageTiming(
        stage=name,
        queue_ms=max(0.0, started - state.handed_over) * 1000,
        run_ms=(time.perf_counter() - begun) * 1000,
        worker=worker,
        attempt=attempt,
    )
    return after.but(timings=(*after.timings, timing), handed_over=time.time())


def finish(state: AskState, parts: Parts, *, worker: str = "local", attempt: int = 1) -> Answer:
    """The last stage. Its own run time can't be in the row it writes, so the row has the time it waited."""
    begun, waited = time.perf_counter(), max(0.0, time.time() - state.handed_over) * 1000
    timing = StageTiming(stage="record", queue_ms=waited, worker=worker, attempt=attempt)
    answer = record(state.but(timings=(*state.timings, timing)), questions=parts.questions)
    spent = timing.model_copy(update={"run_ms": (time.perf_counter() - begun) * 1000})
    return answer.model_copy(update={"timings": (*answer.timings[:-1], spent)})


def _left(state: AskState, at_most: float) -> float:
    return max(0.05, min(at_most, state.question.deadline - time.time()))


def _guard(state: AskState, parts: Parts, _sink: AnswerSink | None, _attempt: int) -> AskState:
    return guard(state, knowledge_bases=parts.knowledge_bases, settings=parts.settings)


def _embed(state: AskState, parts: Parts, _sink: AnswerSink | None, _attempt: int) -> AskState:
    embedder = parts.embedder_for(state.kb) if state.kb else parts.embedder
    return embed(state, embedder=embedder, timeout=_left(state, parts.settings.embed_timeout))


def _search(state: AskState, parts: Parts, _sink: AnswerSink | None, _attempt: int) -> AskState:
    settings = parts.settings
    timeout = _left(state, settings.search_timeout)
    return search(state, retriever=parts.store, candidates=settings.candidates, alpha=settings.alpha, timeout=timeout)


def _enrich(state: AskState, parts: Parts, _sink: AnswerSink | None, _attempt: int) -> AskState:
    depth = RERANK_DEPTH if parts.reranker else 1
    return enrich(state, passages=parts.passages, min_score=parts.settings.min_score, depth=depth)


def _rerank(state: AskState, parts: Parts, _sink: AnswerSink | None, _attempt: int) -> AskState:
    timeout = _left(state, parts.settings.search_timeout)
    return rerank(state, reranker=parts.reranker, texts=parts.passages, timeout=timeout)


def _generate(state: AskState, parts: Parts, sink: AnswerSink | None, attempt: int) -> AskState:
    timeout = _left(state, parts.settings.generate_timeout)
    return generate(
        state,
        generator=parts.generator,
        texts=parts.passages,
        sink=sink or parts.streams,
        timeout=timeout,
        attempt=attempt,
    )


_STAGES: dict[str, Stage] = {
    "guard": _guard,
    "embed": _embed,
    "search": _search,
    "enrich": _enrich,
    "rerank": _rerank,
    "generate": _generate,
}
