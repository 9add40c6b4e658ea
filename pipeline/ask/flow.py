"""A question from start to end, in one process: the same stages, in the same order, as the canvas."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from pipeline import losses
from pipeline.ask import schedule
from pipeline.ask.generate import generate
from pipeline.ask.guard import guard
from pipeline.ask.recall import answer_for, recall, tell
from pipeline.ask.record import record
from pipeline.caching.caches import Best, for_others
from pipeline.caching.flights import Follower
from pipeline.errors import CeleriacError, DeadlineExceeded, NotFound, Unavailable, UpstreamError
from pipeline.followups import BYTES_PER_TOKEN, recent
from pipeline.governor import in_lane
from pipeline.retrieve.embed import embed
from pipeline.retrieve.enrich import RERANK_DEPTH, enrich
from pipeline.retrieve.reading import read
from pipeline.retrieve.rerank import rerank
from pipeline.retrieve.search import search
from pipeline.retrieve.transform import transform
from pipeline.seams import AnswerSink, Generator
from pipeline.settings import OFFLINE_GENERATOR
from pipeline.silence import hurrying
from pipeline.time_left import within
from pipeline.types import Answer, AskState, CachedResult, DegradedMode, Exchange, Question, StageTiming
from pipeline.wiring import Parts

RETRIEVAL = ("guard", "transform", "embed", "search", "enrich", "rerank")
STAGES = (*RETRIEVAL, "generate", "record")

Stage = Callable[[AskState, Parts, AnswerSink | None, int], AskState]


def run(question: Question, parts: Parts, sink: AnswerSink) -> Answer:
    """Ask without a broker: every stage here and now. Raises what a stage raises."""
    state = AskState(question=question, handed_over=time.time())
    for name in STAGES[:-1]:
        if name in stages_left(state, parts):
            state = _run_once(name, state, parts, sink)
    answer = finish(state, parts)
    parts.caches.keep(state, answer)
    return answer


def retrieve(question: Question, parts: Parts) -> AskState:
    """What a question would be answered from: the state after ``rerank``, its passages with text, the best first. It is
    looked up anew, in no cache.
    """
    options = question.options.model_copy(update={"cache": False})
    question = question.model_copy(update={"options": options})
    state = AskState(question=question, handed_over=time.time())
    for name in RETRIEVAL:
        if name in stages_left(state, parts):
            state = _run_once(name, state, parts)
    if state.kb is None:
        return state
    return state.but(passages=read(state.passages, state.kb.id, texts=parts.passages, parents=question.options.parents))


def stages(parts: Parts, question: Question | None = None) -> tuple[str, ...]:
    """The stages there is something to do for: all but ``rerank`` without a reranker, and ``transform`` for a question
    that follows no other.
    """
    follows = question is not None and question.follows_up and parts.settings.chat_turns > 0
    idle = {"rerank": not parts.settings.rerank_url, "transform": not follows}
    return tuple(name for name in STAGES if not idle.get(name))


def stages_left(state: AskState, parts: Parts) -> tuple[str, ...]:
    """Of :func:`stages`, those that no cache has done, and no other question does, for this one; some may be over
    already. Whoever hands it on leaves out the others.
    """
    done = _DONE_BY_CACHE[state.cache.taken] if state.cache and state.cache.taken else ()
    if state.answer is not None:
        done = STAGES[:-1]
    if state.cache and state.cache.follows:
        done = STAGES
    return tuple(name for name in stages(parts, state.question) if name not in done)


def run_stage(
    name: str,
    state: AskState,
    parts: Parts,
    sink: AnswerSink | None = None,
    *,
    worker: str = "local",
    attempt: int = 1,
    impatient: bool = False,
) -> AskState:
    """One stage, timed, if there is time left for it; ``sink`` takes the answer, by default the stream in Redis.
    ``impatient``: a model that is silent for longer than usual is given up early, since the stage is then tried again.

    Where its time is over, or its service is known to be down, it is left for something lesser at once; a question
    that nobody waits for waits itself.
    """
    question, now = state.question, time.time()
    if now >= question.deadline:
        raise DeadlineExceeded(f"Time was over before stage {name!r}.")
    if can_do_with_less(name, state, parts) and schedule.left(name, question, now) < schedule.LEAST:
        return run_lesser(name, state, _late(name, state), parts, sink, worker=worker, attempt=attempt)
    try:
        with hurrying(schedule.left(name, question, now) if impatient else None):
            return _timed(name, _STAGES[name], state, parts, sink, worker, attempt)
    except Unavailable as error:
        if question.options.bulk:
            raise
        return run_lesser(name, state, error, parts, sink, worker=worker, attempt=attempt)


def _late(name: str, state: AskState) -> DeadlineExceeded:
    """What took the time is what an earlier attempt failed with, if there was one."""
    failed = [timing.error for timing in state.timings if timing.stage == name and timing.error]
    return DeadlineExceeded(f"There was no time left for it{f', after {failed[-1]}' if failed else '.'}")


def goes_on_without(name: str, error: CeleriacError, state: AskState, parts: Parts) -> bool:
    """Whether there is something lesser to do after this failure. A wrong key or an unknown model is no outage: it is
    for somebody to mend, not to work around.
    """
    outage = isinstance(error, DeadlineExceeded) or (isinstance(error, UpstreamError) and error.retryable)
    return outage and can_do_with_less(name, state, parts) and time.time() < state.question.deadline


def can_do_with_less(name: str, state: AskState, parts: Parts) -> bool:
    """Whether the question goes on where this stage fails."""
    if name == "search" and not (state.cache and state.cache.earlier):
        return False  # it was never answered before
    if name in ("generate", "transform") and parts.settings.generator_name == OFFLINE_GENERATOR:
        return False  # there is nothing lesser
    return name in _LESSER and not state.question.options.strict


def run_lesser(
    name: str,
    state: AskState,
    error: CeleriacError,
    parts: Parts,
    sink: AnswerSink | None = None,
    *,
    worker: str = "local",
    attempt: int = 1,
) -> AskState:
    """What is done instead of a stage that failed for good; ``degraded`` says so. Raises ``error`` where that is
    nothing.
    """
    if not goes_on_without(name, error, state, parts):
        raise error
    said = state.without(_INSTEAD[name], name, error.message)
    return _timed(name, _LESSER[name], said, parts, sink, worker, attempt)


def _run_once(name: str, state: AskState, parts: Parts, sink: AnswerSink | None = None) -> AskState:
    try:
        with losses.counted() as lost:
            return run_stage(name, state, parts, sink)
    except CeleriacError as error:
        return run_lesser(name, state.but(spent=state.spent.plus(lost.usage)), error, parts, sink)


def _timed(
    name: str, stage: Stage, state: AskState, parts: Parts, sink: AnswerSink | None, worker: str, attempt: int
) -> AskState:
    started, begun = time.time(), time.perf_counter()
    lane = in_lane("bulk" if state.question.options.bulk else "interactive")
    with lane, within(state.question.deadline - started):
        after = stage(state, parts, sink, attempt)
    timing = StageTiming(
        stage=name,
        queue_ms=max(0.0, started - state.handed_over) * 1000,
        run_ms=(time.perf_counter() - begun) * 1000,
        worker=worker,
        attempt=attempt,
    )
    before = len(state.timings)  # what the stage has added comes after it
    timings = (*after.timings[:before], timing, *after.timings[before:])
    return after.but(timings=timings, handed_over=time.time())


def finish(state: AskState, parts: Parts, *, worker: str = "local", attempt: int = 1) -> Answer:
    """The last stage. Its own run time can't be in the row it writes, so the row has the time it waited."""
    begun, waited = time.perf_counter(), max(0.0, time.time() - state.handed_over) * 1000
    timing = StageTiming(stage="record", queue_ms=waited, worker=worker, attempt=attempt)
    with within(state.question.deadline - time.time()):
        answer = record(state.but(timings=(*state.timings, timing)), questions=parts.questions, budget=parts.budget)
    spent = timing.model_copy(update={"run_ms": (time.perf_counter() - begun) * 1000})
    return answer.model_copy(update={"timings": (*answer.timings[:-1], spent)})


# ---------------------------------------------------------------------- the stages


def _left(name: str, state: AskState, at_most: float) -> float:
    return max(0.05, min(at_most, schedule.left(name, state.question, time.time())))


def _guard(state: AskState, parts: Parts, sink: AnswerSink | None, attempt: int) -> AskState:
    settings, budget = parts.settings, parts.budget
    if not parts.caches.serve(state.question):
        return guard(state, knowledge_bases=parts.knowledge_bases, settings=settings, budget=budget)
    lookup, begun = parts.caches.lookup(state.question), time.time()
    checked = guard(state, knowledge_bases=lookup, settings=settings, budget=budget)
    # Only from a stream can the readers of other questions read along.
    joining = _joining(state, begun, attempt) if sink is None else None
    best = lookup.best(checked.kb, joining) if checked.kb else Best()
    known = recall(checked, lookup.note(best.standing), best.found)
    if best.standing.follows:
        parts.streams.append(state.question.id, "follow", best.standing.follows)
    if known.answer is not None:
        tell(known.answer, sink or parts.streams, attempt)
    return known


def _transform(state: AskState, parts: Parts, _sink: AnswerSink | None, _attempt: int) -> AskState:
    timeout = _left("transform", state, parts.settings.rewrite_timeout)
    generator = parts.generator if parts.generator.mode == "generated" else None
    with parts.cancellations.watch(state.question.id) as abort:
        earlier = _earlier(state.question, parts)
        return transform(state, earlier=earlier, generator=generator, timeout=timeout, abort=abort)


def _earlier(question: Question, parts: Parts) -> tuple[Exchange, ...]:
    """The turns that the question follows, as many as fit."""
    settings = parts.settings
    if question.turn is None or not question.follows_up or not settings.chat_turns:
        return ()
    chars = settings.chat_tokens * BYTES_PER_TOKEN
    return recent(
        parts.conversations.earlier(question.turn, limit=settings.chat_turns, chars=chars), settings.chat_tokens
    )


def _joining(state: AskState, begun: float, attempt: int) -> Follower:
    asked, now = state.question, time.time()
    times = {"queue_ms": max(0.0, begun - state.handed_over) * 1000, "run_ms": (now - begun) * 1000}
    guarded = StageTiming(stage="guard", attempt=attempt, **times)
    return Follower(question_id=asked.id, epoch=asked.epoch, deadline=asked.deadline, since=now, guard=guarded)


def _embed(state: AskState, parts: Parts, _sink: AnswerSink | None, _attempt: int) -> AskState:
    embedder = parts.embedder_for(state.kb) if state.kb else parts.embedder
    timeout = _left("embed", state, parts.settings.question_embed_timeout)
    after = embed(state, embedder=embedder, timeout=timeout, prices=parts.settings.prices)
    if after.cache and after.kb and after.vector:
        parts.caches.keep_vector(after.kb, after.question, after.vector)
    return after


def _search(state: AskState, parts: Parts, _sink: AnswerSink | None, _attempt: int) -> AskState:
    settings = parts.settings
    timeout = _left("search", state, settings.search_timeout)
    return search(
        state, retriever=parts.retriever, candidates=settings.candidates, alpha=settings.alpha, timeout=timeout
    )


def _enrich(state: AskState, parts: Parts, _sink: AnswerSink | None, _attempt: int) -> AskState:
    depth = RERANK_DEPTH if parts.reranker else 1
    return enrich(state, passages=parts.passages, min_score=parts.settings.min_score, depth=depth)


def _rerank(state: AskState, parts: Parts, _sink: AnswerSink | None, _attempt: int) -> AskState:
    timeout = _left("rerank", state, parts.settings.search_timeout)
    return rerank(state, reranker=parts.reranker, texts=parts.passages, timeout=timeout)


def _generate(state: AskState, parts: Parts, sink: AnswerSink | None, attempt: int) -> AskState:
    timeout = _left("generate", state, parts.settings.generate_timeout)
    if timeout < schedule.BRIEF_BELOW and not state.question.options.strict and parts.generator.mode == "generated":
        state = state.without("brief", "generate", f"Only {timeout:.1f} s were left for the answer.")
    return _generated(state, parts.generator, parts, sink, timeout, attempt)


def _generated(
    state: AskState, generator: Generator, parts: Parts, sink: AnswerSink | None, timeout: float, attempt: int
) -> AskState:
    with parts.cancellations.watch(state.question.id) as abort:
        return generate(
            state,
            generator=generator,
            texts=parts.passages,
            sink=sink or parts.streams,
            timeout=timeout,
            attempt=attempt,
            earlier=_earlier(state.question, parts) if generator.mode == "generated" else (),
            abort=abort,
        )


# ---------------------------------------------------------------------- what can be had instead


def _by_rule(state: AskState, parts: Parts, _sink: AnswerSink | None, _attempt: int) -> AskState:
    return transform(state, earlier=_earlier(state.question, parts), generator=None, timeout=0.0)


def _without_vector(state: AskState, _parts: Parts, _sink: AnswerSink | None, _attempt: int) -> AskState:
    return state


def _as_fused(state: AskState, parts: Parts, _sink: AnswerSink | None, _attempt: int) -> AskState:
    return rerank(state, reranker=None, texts=parts.passages, timeout=0.0)


def _extracted(state: AskState, parts: Parts, sink: AnswerSink | None, attempt: int) -> AskState:
    timeout = max(0.05, state.question.deadline - time.time())
    return _generated(state, parts.extractive, parts, sink, timeout, attempt)


def _answered_before(state: AskState, parts: Parts, sink: AnswerSink | None, attempt: int) -> AskState:
    """The newest answer in full to the same question, with a word on how old it is."""
    record = parts.questions.find(state.cache.earlier if state.cache else "")
    if record.answer is None:
        raise NotFound("The answer that was given before is gone.")
    *others, loss = state.degraded
    given = datetime.fromtimestamp(record.finished_at or 0.0, UTC)
    reason = f"{loss.reason} This is the answer of {given:%Y-%m-%d %H:%M} UTC; what it rests on may have changed since."
    state = state.but(degraded=(*others, loss.model_copy(update={"reason": reason})))
    answer = answer_for(state, for_others(record.answer))
    tell(answer, sink or parts.streams, attempt)
    return state.but(answer=answer)


_DONE_BY_CACHE: dict[CachedResult, tuple[str, ...]] = {
    "vector": ("embed",),
    "retrieval": RETRIEVAL[1:],
    "answer": STAGES[:-1],
}
_STAGES: dict[str, Stage] = {
    "guard": _guard,
    "transform": _transform,
    "embed": _embed,
    "search": _search,
    "enrich": _enrich,
    "rerank": _rerank,
    "generate": _generate,
}
_LESSER: dict[str, Stage] = {
    "transform": _by_rule,
    "embed": _without_vector,
    "search": _answered_before,
    "rerank": _as_fused,
    "generate": _extracted,
}
_INSTEAD: dict[str, DegradedMode] = {
    "transform": "no_rewrite",
    "embed": "keyword_only",
    "search": "cached",
    "rerank": "no_rerank",
    "generate": "extractive",
}
