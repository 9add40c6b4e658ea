"""Attempts at a stage of a question that failed.

One that is tried again rides on with the state, among its timings, and so ends in the question's row with the others:
no round trip of its own. The last one is what the question failed with, or where it was when it was cancelled.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from pydantic import ValidationError

from pipeline import losses
from pipeline.ask.flow import STAGES
from pipeline.errors import CeleriacError
from pipeline.types import AskState, Question, StageFailure, StageTiming, Usage
from pipeline.wiring import Parts
from tasks import runtime
from tasks.handover import opened

_log = structlog.get_logger(__name__)
_PREFIX = "ask."
_LONGEST = 300


def arguments_after(request: Any, error: CeleriacError) -> Any:
    """The arguments of the message by which a task is tried again."""
    state = _state(request)
    if state is None:
        return request.args
    tried = paid(request, state).but(timings=_tried(request, state, error), handed_over=time.time())
    return (tried.encode(), *request.args[1:])


@contextmanager
def noting_losses(request: Any) -> Iterator[None]:
    """Within, what calls cost that came to no end is noted where the attempt fails."""
    with losses.counted() as lost:
        try:
            yield
        except BaseException:
            note_lost(request, lost.usage)
            raise


def note_lost(request: Any, usage: Usage) -> None:
    """What an attempt cost that failed, besides what this delivery has lost already."""
    if usage.tokens:
        before = request.get("lost")
        request.update(lost=before.plus(usage) if before else usage)


def paid(request: Any, state: AskState) -> AskState:
    """The state with what the failed attempts of this delivery cost."""
    lost = request.get("lost")
    return state.but(spent=state.spent.plus(lost)) if lost else state


def failure_of(request: Any, error: CeleriacError) -> StageFailure | None:
    """What an errback hears of the task that failed; None where it is no stage, or was given what can't be read."""
    state = _state(request)
    if state is None:
        return None
    return StageFailure(
        stage=_stage(request),
        task=str(request.task),
        attempts=_number(request),
        worker=_worker(request),
        state=paid(request, state).but(timings=_tried(request, state, error)),
    )


def note_cancelled(request: Any, error: CeleriacError) -> None:
    """Tell the row of a cancelled question how far it came. A row that can't be told now stays without."""
    failure, parts = failure_of(request, error), runtime.parts()
    if failure is None:
        return
    asked = failure.state.question
    try:
        if parts.questions.note_cancelled(asked.id, epoch=asked.epoch, failure=failure):
            spend(failure, parts)
    except CeleriacError as unheard:
        _log.warning("a cancelled question was not told how far it came", question=asked.id, error=str(unheard))


def spend(failure: StageFailure, parts: Parts) -> None:
    """Count what a question cost that ended without an answer, once that is on record."""
    if parts.budget is not None:
        parts.budget.spend(failure.state.question.tenant, failure.usage.cost_usd, failure.usage.tokens)


def failure_unseen(question: Question) -> StageFailure:
    """A question that came to no end in its time: nobody knows at which stage, so it is for the first one."""
    return StageFailure(stage=STAGES[0], state=AskState(question=question))


def _state(request: Any) -> AskState | None:
    if not request.args or not str(request.get("task") or "").startswith(_PREFIX):
        return None
    try:
        return opened(request.args[0])
    except ValidationError:
        return None


def _tried(request: Any, state: AskState, error: CeleriacError) -> tuple[StageTiming, ...]:
    """The timings so far and this attempt; waits one after the other, which are no attempts, count as one."""
    now = time.time()
    begun = float(request.get("begun_at") or now)
    timing = StageTiming(
        stage=_stage(request),
        queue_ms=max(0.0, begun - state.handed_over) * 1000 if state.handed_over else 0.0,
        run_ms=(now - begun) * 1000,
        worker=_worker(request),
        attempt=_number(request),
        error=f"{error.code}: {error.message}"[:_LONGEST],
    )
    last = state.timings[-1] if state.timings else None
    if error.attempted or last is None or not _same_wait(last, timing):
        return (*state.timings, timing)
    spent = {name: getattr(last, name) + getattr(timing, name) for name in ("queue_ms", "run_ms")}
    return (*state.timings[:-1], timing.model_copy(update=spent))


def _same_wait(one: StageTiming, other: StageTiming) -> bool:
    code = other.error.partition(":")[0]
    return (one.stage, one.attempt, one.error.partition(":")[0]) == (other.stage, other.attempt, code)


def _stage(request: Any) -> str:
    return str(request.task).removeprefix(_PREFIX)


def _number(request: Any) -> int:
    return int(request.get("attempt") or 1)


def _worker(request: Any) -> str:
    return str(request.hostname or "")
