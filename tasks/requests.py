"""What took a worker process down is known to its parent alone, and Celery forgets it when it delivers the task again.

So the parent notes it with the batch. The children hold every other connection; the parent opens one for this and
closes it, because what it kept open would be shared by all that are forked after.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import structlog
from celery.exceptions import WorkerLostError
from pydantic import ValidationError

from pipeline.errors import CeleriacError
from pipeline.types import Batch
from pipeline.wiring import Parts
from tasks import runtime
from tasks.leftovers import TidyRequest, raised

_log = structlog.get_logger(__name__)

# The parent's loop serves all its children, and waits meanwhile.
_PATIENCE = 5.0
_JOB = re.compile(r" Job: \d+\.?$")


class CrashNotingRequest(TidyRequest):
    """A delivery whose loss is noted before the message goes back to its queue."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Celery calls it in the parent, for what a task raised and for a process that died under it."""
        error = raised(exc_info)
        if isinstance(error, WorkerLostError):
            note_crash(self.name, self.args, _JOB.sub("", str(error)))
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)


def note_crash(task_name: str, args: Sequence[Any], cause: str) -> None:
    """Tell the ledger that the process died that had this batch. Where it is down, the lease runs out by itself."""
    try:
        batch = Batch.decode(args[0])
    except (ValidationError, IndexError):
        return  # a task of another kind
    settings = runtime.parts().settings
    brief = {"database_pool": 1, "connect_timeout": _PATIENCE, "statement_timeout": _PATIENCE}
    parts = Parts(settings.model_copy(update=brief))
    try:
        parts.batches.crashed(batch, cause)
    except CeleriacError as error:
        _log.warning("crash not noted", run=batch.run_id, batch=batch.number, error=str(error))
    finally:
        parts.close()
    _log.warning("worker process died", task=task_name, run=batch.run_id, batch=batch.number, cause=cause)
