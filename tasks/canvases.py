"""The only place that says ``chain``, ``group`` or ``chord``.

ask      chain( guard → transform → embed → search → enrich → rerank → generate → record )
ingest   lane = chord( [ chain( parse → chunk → embed → upsert ) per batch ], next_wave ) → … ; the last one → finalize
"""

from __future__ import annotations

import time
from typing import Any

from celery import chain, chord

from pipeline.ask.flow import STAGES as ASK_STAGES
from pipeline.ingest.flow import stages_from
from pipeline.types import AskState, Batch, IngestStage, Question, Wave
from tasks.app import app


def ask(question: Question, state: AskState | None = None, first_stage: str = ASK_STAGES[0]) -> Any:
    """The canvas of one question, from ``first_stage`` on with the ``state`` that this stage is given. The last task's
    id, and so the result's, is the question's own id.
    """
    # The first wait begins with the question itself, so that all its time is accounted for.
    since = time.time() if question.epoch else question.submitted_at
    first = (state or AskState(question=question)).but(handed_over=since).encode()
    *stages, last = ASK_STAGES[ASK_STAGES.index(first_stage) :]
    if first_stage != "transform" and not question.follows_up:
        stages = [name for name in stages if name != "transform"]
    steps = [app.signature(f"ask.{name}", task_id=f"{question.id}.{name}") for name in stages]
    steps.append(app.signature(f"ask.{last}", task_id=question.id))
    steps[0].args = (first,)
    canvas = chain(*steps)
    canvas.link_error(app.signature("ask.failed", args=(question.id, question.epoch), immutable=False))
    return canvas


def following(run_id: str, lane: int, step: int, wave: Wave) -> Any:
    """What a lane sends: the canvas of its next wave, the end of the run, or None where others are still at work.

    A wave is its batches side by side, each from the stage it is at, then the body that sends the lane's next one.
    Header tasks never raise, they end their batch with a status; were one to raise all the same, as where the broker
    broke off while it handed on its batch, the sweep sends the lane again.
    """
    if not wave.batches:
        return end(run_id) if wave.last else None
    header = [
        _batch(Batch(run_id=run_id, number=number, bulk=wave.bulk), stage, f"{run_id}.{lane}.{step}.{number}")
        for number, stage in wave.batches
    ]
    return chord(header, _next_wave(run_id, lane, step))


def lane(run_id: str, number: int, step: int) -> Any:
    """Begin a lane of a run whose manifest is complete, or go on with one whose messages are gone."""
    first = _next_wave(run_id, number, step)
    first.args = ([], *first.args)
    return first


def end(run_id: str) -> Any:
    """The last task of a run."""
    finalize = app.signature("ingest.finalize", args=(run_id,), task_id=f"{run_id}.end")
    finalize.link_error(app.signature("ingest.failed", args=(run_id,)))
    return finalize


def _next_wave(run_id: str, lane: int, step: int) -> Any:
    body = app.signature("ingest.next_wave", args=(run_id, lane, step), task_id=f"{run_id}.{lane}.{step}")
    return body.on_error(app.signature("ingest.failed", args=(run_id,)))


def _batch(batch: Batch, stage: IngestStage, task_id: str) -> Any:
    steps = [app.signature(f"ingest.{name}", task_id=f"{task_id}.{name}") for name in stages_from(stage)]
    steps[0].args = (batch.encode(),)
    return chain(*steps)
