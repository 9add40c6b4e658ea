"""The only place that says ``chain``, ``group`` or ``chord``.

ask      chain( guard → embed → search → enrich → rerank → generate → record )
ingest   wave = chord( [ chain( parse → chunk → embed → upsert ) per batch ], next_wave ) → … → finalize
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from celery import chain, chord

from pipeline.ask.flow import STAGES as ASK_STAGES
from pipeline.ingest.flow import STAGES as INGEST_STAGES
from pipeline.types import AskState, Batch, Question
from tasks.app import app

# Ids of tasks are made of wave numbers: those of a new epoch must not meet those of the last one.
_WAVES_PER_EPOCH = 1_000_000


def ask(question: Question) -> Any:
    """The canvas of one question. The last task's id, and so the result's, is the question's own id."""
    first = AskState(question=question, handed_over=time.time()).encode()
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
    return chord(header, _next_wave(run_id, number + 1))


def start(run_id: str, epoch: int = 0) -> Any:
    """Begin a run whose manifest is complete, or go on with one whose messages are gone: its manifest says where."""
    first = _next_wave(run_id, epoch * _WAVES_PER_EPOCH)
    first.args = ([], *first.args)
    return first


def epoch_of(wave_number: int) -> int:
    """The epoch of a run that a wave belongs to."""
    return wave_number // _WAVES_PER_EPOCH


def end(run_id: str) -> Any:
    """The last task of a run."""
    finalize = app.signature("ingest.finalize", args=(run_id,), task_id=f"{run_id}.end")
    finalize.link_error(app.signature("ingest.failed", args=(run_id,)))
    return finalize


def _next_wave(run_id: str, number: int) -> Any:
    body = app.signature("ingest.next_wave", args=(run_id, number), task_id=f"{run_id}.{number}")
    return body.on_error(app.signature("ingest.failed", args=(run_id,)))


def _batch(batch: Batch, task_id: str) -> Any:
    steps = [app.signature(f"ingest.{name}", task_id=f"{task_id}.{name}") for name in INGEST_STAGES]
    steps[0].args = (batch.encode(),)
    return chain(*steps)
