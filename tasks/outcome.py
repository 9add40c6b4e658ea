"""How a question ends badly: everyone who waits for it is told, even if one of the places can't be reached."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from celery import states

from pipeline.errors import CeleriacError, wrap
from tasks import runtime
from tasks.app import app

_log = structlog.get_logger(__name__)


def fail_question(question_id: str, error: CeleriacError, epoch: int) -> None:
    """Record the failure, store it as the task's result, tell the readers of the stream.

    The middle stages store no result, so without this a caller would wait for ever. A question that is over, or that
    a later submission has taken over, is left as it is.
    """
    parts = runtime.parts()
    changed = _tried(question_id, lambda: parts.questions.fail(question_id, error, epoch=epoch))
    if changed is False:
        return
    _tried(question_id, lambda: app.backend.store_result(question_id, error, states.FAILURE))
    _tried(question_id, lambda: parts.streams.append(question_id, "error", error.to_json()))


def _tried(question_id: str, tell: Callable[[], bool | None]) -> bool | None:
    try:
        return tell()
    except Exception as error:  # noqa: BLE001 - the next place must be told all the same
        _log.error("a failure could not be told", question=question_id, error=str(wrap(error)))
        return None
