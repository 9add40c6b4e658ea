"""The stages of a question as tasks."""

from __future__ import annotations

from typing import Any

from pipeline.ask import flow
from pipeline.errors import wrap
from pipeline.types import AskState
from tasks import outcome, runtime
from tasks.app import app
from tasks.base import StageTask


def _stage(task: StageTask, name: str, data: dict[str, Any]) -> dict[str, Any]:
    state, parts = AskState.decode(data), runtime.parts()
    with task.attempt(state.question.deadline, question=state.question.id) as number:
        after = flow.run_stage(name, state, parts, worker=task.worker, attempt=number)
    return after.encode()


@app.task(bind=True, base=StageTask, name="ask.guard", ignore_result=True)
def guard(task: StageTask, state: dict[str, Any]) -> dict[str, Any]:
    """Refuse or flag the question, find its knowledge base."""
    return _stage(task, "guard", state)


@app.task(bind=True, base=StageTask, name="ask.embed", ignore_result=True)
def embed(task: StageTask, state: dict[str, Any]) -> dict[str, Any]:
    """Turn the question into a vector."""
    return _stage(task, "embed", state)


@app.task(bind=True, base=StageTask, name="ask.search", ignore_result=True)
def search(task: StageTask, state: dict[str, Any]) -> dict[str, Any]:
    """Find chunks by vector and by keyword, fused."""
    return _stage(task, "search", state)


@app.task(bind=True, base=StageTask, name="ask.enrich", ignore_result=True)
def enrich(task: StageTask, state: dict[str, Any]) -> dict[str, Any]:
    """Keep what is live and good enough, with its place."""
    return _stage(task, "enrich", state)


@app.task(bind=True, base=StageTask, name="ask.rerank", ignore_result=True)
def rerank(task: StageTask, state: dict[str, Any]) -> dict[str, Any]:
    """Order the passages, keep top_k."""
    return _stage(task, "rerank", state)


@app.task(bind=True, base=StageTask, name="ask.generate", ignore_result=True)
def generate(task: StageTask, state: dict[str, Any]) -> dict[str, Any]:
    """Write the answer while its owner reads along."""
    return _stage(task, "generate", state)


class RecordTask(StageTask):
    """The last stage: its result is the question's."""

    abstract = True

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Tell readers, once the result they will fetch is stored."""
        runtime.parts().streams.append(task_id, "done")


@app.task(bind=True, base=RecordTask, name="ask.record")
def record(task: StageTask, data: dict[str, Any]) -> dict[str, Any]:
    """Write question, answer, timings, tokens and cost; return the answer."""
    state = AskState.decode(data)
    with task.attempt(state.question.deadline, question=state.question.id) as number:
        answer = flow.finish(state, runtime.parts(), worker=task.worker, attempt=number)
    return answer.encode()


@app.task(name="ask.failed", ignore_result=True)
def failed(_request: Any, error: BaseException, _traceback: Any, question_id: str, epoch: int) -> None:
    """The errback of every stage: its failure is the question's."""
    outcome.fail_question(question_id, wrap(error), epoch)
