"""The stages of a question as tasks."""

from __future__ import annotations

import logging
from typing import Any

import structlog
from celery.exceptions import Ignore

from pipeline.ask import flow, schedule
from pipeline.errors import Cancelled, CeleriacError, wrap
from pipeline.types import Answer, AskState
from pipeline.wiring import Parts
from tasks import attempts, flights, handover, outcome, runtime
from tasks.app import app
from tasks.base import StageTask
from tasks.handover import Handed, opened

_log = structlog.get_logger(__name__)

Given = Handed | dict[str, Any]
_PRIORITIES = {"ask.guard": 6, "ask.record": 0}


class QuestionTask(StageTask):
    """A stage of a question. What is begun is ended first: under a burst some answers are there early, instead of all
    late.
    """

    abstract = True
    done_level = logging.DEBUG  # its answer is what is logged
    resultrepr_maxsize = 64  # what each hands on is described for people, too
    Request = "tasks.handover:HandingRequest"

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Celery describes the arguments in each message, for people: here they are a question, or its answer."""
        options.setdefault("argsrepr", "(…)")
        options.setdefault("kwargsrepr", "{}")
        if handover.keep(self, args, kwargs, options):
            return None  # nobody asks for its result: it is Celery's tracer that sends the next task of a chain
        return super().apply_async(handover.encoded(args), kwargs, **options)

    def urgency(self, args: Any) -> int | None:
        """The last stage overtakes those before it; new questions come after them, and those that nobody waits for last
        of all. One that is sent again has waited.
        """
        if self.name == "ask.guard" and args:
            return _urgency(args[0]["question"])
        return _PRIORITIES.get(self.name, 3)


def _urgency(question: dict[str, Any]) -> int:
    if question.get("epoch"):
        return 0
    return 9 if question.get("options", {}).get("bulk") else _PRIORITIES["ask.guard"]


def _stage(task: StageTask, name: str, given: Given) -> Handed:
    state, parts = opened(given), runtime.parts()
    _leave_what_is_over(task, state.question.id)
    patience = _patience(name, state, parts)
    try:
        with task.attempt(schedule.ends_at(name, state.question), patience, question=state.question.id) as number:
            _refuse_cancelled(state, name)
            impatient = number == 1 and parts.settings.max_retries > 0 and not state.question.options.bulk
            after = flow.run_stage(name, state, parts, worker=task.worker, attempt=number, impatient=impatient)
    except CeleriacError as failure:
        if not flow.goes_on_without(name, failure, state, parts):
            raise
        state = attempts.paid(task.request, state)
        with task.attempt(state.question.deadline, question=state.question.id) as number:
            after = flow.run_lesser(name, state, failure, parts, worker=task.worker, attempt=number)
    except Ignore:
        flights.give_up(state, parts)
        raise
    _skip_idle_stages(task, flow.stages_left(after, parts))
    return Handed(after)


def _patience(name: str, state: AskState, parts: Parts) -> float | None:
    """For how long a stage is tried that the question can do without; where nobody waits, as long as its time lasts."""
    lesser = flow.can_do_with_less(name, state, parts) and not state.question.options.bulk
    return parts.settings.degrade_after if lesser else None


def _refuse_cancelled(state: AskState, stage: str) -> None:
    if runtime.parts().cancellations.is_cancelled(state.question.id):
        raise Cancelled(f"Question {state.question.id} was cancelled before stage {stage!r}.")


def _skip_idle_stages(task: StageTask, stages: tuple[str, ...]) -> None:
    """Leave out what comes next and has nothing to do: who sent the canvas need not know what its workers have."""
    following = task.request.chain or []  # the last one comes next
    while following and following[-1]["task"].removeprefix("ask.") not in stages:
        following.pop()


def _leave_what_is_over(task: StageTask, question_id: str) -> None:
    """A message that comes a second time may be of a question of which only the acknowledgement was lost."""
    delivery = task.request.delivery_info or {}
    if delivery.get("redelivered") and runtime.parts().questions.over([question_id]):
        raise Ignore


@app.task(bind=True, base=QuestionTask, name="ask.guard", ignore_result=True)
def guard(task: StageTask, state: Given) -> Handed:
    """Refuse or flag the question, find its knowledge base."""
    return _stage(task, "guard", state)


@app.task(bind=True, base=QuestionTask, name="ask.transform", ignore_result=True)
def transform(task: StageTask, state: Given) -> Handed:
    """Make a question that follows others stand alone."""
    return _stage(task, "transform", state)


@app.task(bind=True, base=QuestionTask, name="ask.embed", ignore_result=True)
def embed(task: StageTask, state: Given) -> Handed:
    """Turn the question into a vector."""
    return _stage(task, "embed", state)


@app.task(bind=True, base=QuestionTask, name="ask.search", ignore_result=True)
def search(task: StageTask, state: Given) -> Handed:
    """Find chunks by vector and by keyword, fused."""
    return _stage(task, "search", state)


@app.task(bind=True, base=QuestionTask, name="ask.enrich", ignore_result=True)
def enrich(task: StageTask, state: Given) -> Handed:
    """Keep what is live and good enough, with its place."""
    return _stage(task, "enrich", state)


@app.task(bind=True, base=QuestionTask, name="ask.rerank", ignore_result=True)
def rerank(task: StageTask, state: Given) -> Handed:
    """Order the passages, keep top_k."""
    return _stage(task, "rerank", state)


@app.task(bind=True, base=QuestionTask, name="ask.generate", ignore_result=True)
def generate(task: StageTask, state: Given) -> Handed:
    """Write the answer while its owner reads along."""
    return _stage(task, "generate", state)


class RecordTask(QuestionTask):
    """The last stage: its result is the question's."""

    abstract = True
    comes_last = True

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Tell readers, once the result they will fetch is stored, and then those who follow this question."""
        parts = runtime.parts()
        try:
            parts.streams.append(task_id, "done")
        finally:
            state = opened(args[0])
            if state.cache:
                flights.land(state, Answer.decode(retval), parts, self.worker)


@app.task(bind=True, base=RecordTask, name="ask.record")
def record(task: StageTask, given: Given) -> dict[str, Any]:
    """Write question, answer, timings, tokens and cost; return the answer."""
    state = opened(given)
    with task.attempt(state.question.deadline, question=state.question.id) as number:
        _refuse_cancelled(state, "record")
        answer = flow.finish(state, runtime.parts(), worker=task.worker, attempt=number)
        took = {timing.stage: round(timing.run_ms) for timing in answer.timings}
        _log.info("question answered", outcome=answer.outcome, mode=answer.mode, ms=took)
    return answer.encode()


@app.task(name="ask.failed", ignore_result=True)
def failed(request: Any, error: BaseException, _traceback: Any, question_id: str, epoch: int) -> None:
    """The errback of every stage: its failure is the question's."""
    failure = wrap(error)
    outcome.fail_question(question_id, failure, epoch, attempts.failure_of(request, failure))
