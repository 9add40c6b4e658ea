"""The stages of a run as tasks. A header task never raises: it ends what it can't do, item by item, with a cause."""

from __future__ import annotations

from typing import Any

import structlog

from pipeline.errors import Busy, CeleriacError, wrap
from pipeline.ingest import flow
from pipeline.types import Batch, IngestStage
from tasks import canvases, runtime
from tasks.app import app
from tasks.base import StageTask
from tasks.broker import reaching_redis

_log = structlog.get_logger(__name__)

# Redis knows four priorities, the lowest number first. What is begun is ended first, so that little is under way at a
# time; and a small run overtakes a large one.
_PRIORITIES = {"ingest.parse": 3, "ingest.chunk": 0, "ingest.embed": 3, "ingest.upsert": 0}
_BULK = 6


class BatchTask(StageTask):
    """A stage of a batch, sent with the priority that stage and run have."""

    abstract = True

    def urgency(self, args: Any) -> int | None:
        """By stage and size of the run."""
        return _PRIORITIES[self.name] + (_BULK if args[0].get("bulk") else 0) if args else None


def _stage(task: StageTask, name: IngestStage, data: dict[str, Any]) -> dict[str, Any]:
    batch, parts = Batch.decode(data), runtime.parts()
    number, patience = 1, parts.settings.ingest_patience
    try:
        with task.attempt(run=batch.run_id, batch=str(batch.number), patience=patience) as number:
            flow.run_stage(name, batch, parts, attempt=number)
    except Busy:
        pass  # for so long that this message is one too many: whoever holds the batch takes it on
    except CeleriacError as error:
        try:
            flow.give_up(name, batch, error, parts, attempt=number)
        except CeleriacError as down:
            # The ledger itself is down. The batch stays open, and its lane takes it again.
            _log.warning("batch left open", run=batch.run_id, batch=batch.number, error=str(down))
    return batch.encode()


@app.task(bind=True, base=BatchTask, name="ingest.parse", ignore_result=True)
def parse(task: StageTask, batch: dict[str, Any]) -> dict[str, Any]:
    """Read and parse the batch's sources."""
    return _stage(task, "parse", batch)


@app.task(bind=True, base=BatchTask, name="ingest.chunk", ignore_result=True)
def chunk(task: StageTask, batch: dict[str, Any]) -> dict[str, Any]:
    """Cut them into chunks."""
    return _stage(task, "chunk", batch)


@app.task(bind=True, base=BatchTask, name="ingest.embed", ignore_result=True)
def embed(task: StageTask, batch: dict[str, Any]) -> dict[str, Any]:
    """Embed what no worker has embedded yet."""
    return _stage(task, "embed", batch)


@app.task(bind=True, base=BatchTask, name="ingest.upsert")
def upsert(task: StageTask, batch: dict[str, Any]) -> int:
    """Write to the vector store, switch to the new generations; the chord counts this task's result."""
    return int(_stage(task, "upsert", batch)["number"])


@app.task(bind=True, base=StageTask, name="ingest.next_wave", ignore_result=True)
def next_wave(task: StageTask, _batches: list[int], run_id: str, lane: int, step: int) -> None:
    """Send what this lane does next, or the end of the run if nothing is left in any."""
    parts = runtime.parts()
    with task.attempt(run=run_id, lane=str(lane), patience=parts.settings.ingest_patience), reaching_redis():
        wave = parts.batches.next_wave(run_id, lane, step, parts.settings.wave_batches)
        # None: the run is over, or another message has done this step.
        canvas = canvases.following(run_id, lane, step + 1, wave) if wave else None
        if canvas is not None:
            canvas.apply_async()


@app.task(bind=True, base=StageTask, name="ingest.finalize", ignore_result=True)
def finalize(task: StageTask, run_id: str) -> None:
    """Prune if asked to, and end the run."""
    parts = runtime.parts()
    with task.attempt(run=run_id, patience=parts.settings.ingest_patience):
        flow.end(run_id, parts)


@app.task(name="ingest.failed", ignore_result=True)
def failed(_request: Any, error: BaseException, _traceback: Any, run_id: str) -> None:
    """The errback of a wave's body and of finalize."""
    _log.error("run interrupted", run=run_id, error=str(wrap(error)))
    # What is not ours comes from between the tasks: Celery couldn't send the next one, and gave up the whole chord.
    # Such a run, and one that a service was missing to, goes on as soon as the sweep finds its lanes silent.
    if isinstance(error, CeleriacError) and not error.retryable:
        runtime.parts().runs.finish(run_id, "failed", error=error)
