"""The only place that says ``chain``, ``group`` or ``chord``.

ask      chain( guard → embed → search → enrich → rerank → generate → record )
ingest   wave = chord( [ chain( parse → chunk → embed → upsert ) per batch ], end_wave ) → next wave … → finalize
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import chain, chord

from pipeline.ask.flow import STAGES as ASK_STAGES
from pipeline.ingest.flow import STAGES as INGEST_STAGES
from pipeline.types import AskState, Batch, Question
from tasks.app import app


def ask(question: Question) -> Any:
    """The canvas of one question. The last task's id, and so the result's, is the question's own id."""
    first = AskState(question=question, handed_over=question.submitted_at).encode()
    *stages, last = ASK_STAGES
    steps = [app.signature(f"ask.{name}", task_id=f"{question.id}.{name}") for name in stages]
    steps[0].args = (first,)
    canvas = chain(*steps, app.signature(f"ask.{last}", task_id=question.id))
    canvas.link_error(app.signature("ask.failed", args=(question.id, question.epoch), immutable=False))
    return canvas


def wave(run_id: str, batches: Sequence[int], number: int) -> Any:
    """The canvas of one wave of a run: its batches side by side, then the body that decides what comes next.

    Header tasks never raise, they end their batch with a status; were they to raise all the same, or the body, the
    errback ends the run.
    """
    header = [_batch(Batch(run_id=run_id, number=batch), f"{run_id}.{number}.{batch}") for batch in batches]
    body = app.signature("ingest.end_wave", args=(run_id, number), task_id=f"{run_id}.{number}.end")
    return chord(header, body.on_error(app.signature("ingest.failed", args=(run_id,))))


def _batch(batch: Batch, task_id: str) -> Any:
    steps = [app.signature(f"ingest.{name}", task_id=f"{task_id}.{name}") for name in INGEST_STAGES]
    steps[0].args = (batch.encode(),)
    return chain(*steps)


def end(run_id: str) -> Any:
    """The last task of a run."""
    finalize = app.signature("ingest.finalize", args=(run_id,), task_id=f"{run_id}.end")
    finalize.link_error(app.signature("ingest.failed", args=(run_id,)))
    return finalize


def resume(run_id: str, epoch: int) -> Any:
    """Go on with a run whose messages are gone, from what its manifest says."""
    return app.signature("ingest.end_wave", args=([], run_id, epoch * 1_000_000), task_id=f"{run_id}.resume.{epoch}")
