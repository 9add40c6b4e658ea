"""Housekeeping: the sweep that beat asks for, and canaries that show whether a queue is listened to."""

from __future__ import annotations

import time

import structlog

from pipeline.errors import wrap
from tasks import recovery, runtime
from tasks.app import app
from tasks.broker import reaching_redis

_log = structlog.get_logger(__name__)


@app.task(name="control.sweep", ignore_result=True, acks_late=False)
def sweep() -> dict[str, int]:
    """Deliver again, reconcile, end what is overdue. One part that can't be done now is done by a later sweep."""
    parts = runtime.parts()
    done: dict[str, int] = {}
    steps = (
        recovery.redeliver,
        recovery.reconcile_questions,
        recovery.reconcile_runs,
        recovery.forget_dead_letters,
        recovery.forget_vectors,
    )
    for step in steps:
        try:
            with reaching_redis():
                done[step.__name__] = step(parts)
        except Exception as error:  # noqa: BLE001 - the other steps must be done all the same
            _log.warning("sweep step put off", step=step.__name__, error=str(wrap(error)))
    return done


def canary(sent_at: float) -> float:
    """Answer how many seconds the message waited."""
    return max(0.0, time.time() - sent_at)


# One per queue: routes go by name (celeryconfig.task_routes).
CANARIES = {queue: app.task(name=f"{queue}.canary")(canary) for queue in ("ask", "ingest", "parse", "control")}
