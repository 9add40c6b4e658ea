"""How a question ends badly: everyone who waits for it is told, even if one of the places can't be reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import structlog
from celery import states

from pipeline.caching.flights import Follower
from pipeline.errors import Cancelled, CeleriacError, DeadlineExceeded, wrap
from pipeline.types import StageFailure
from pipeline.wiring import Parts
from tasks import attempts, flights, runtime
from tasks.app import app

_log = structlog.get_logger(__name__)


def fail_question(question_id: str, error: CeleriacError, epoch: int, failure: StageFailure | None = None) -> None:
    """Record the failure with its dead letter, store it as the task's result, tell the readers of the stream.

    The middle stages store no result, so without this a caller would wait for ever. A question that is over, or that
    a later submission has taken over, is left as it is. So is one that has time left where the row can't be told: the
    sweep sends it again, and nobody may have heard that it failed when it is answered.
    """
    parts = runtime.parts()
    changed = _tried(question_id, lambda: parts.questions.fail(question_id, error, epoch=epoch, failure=failure))
    if changed is False or (changed is None and parts.cancellations.is_cancelled(question_id)):
        return
    if changed is None and failure is not None and time.time() < failure.state.question.deadline:
        return
    if changed and failure is not None:
        _tried(question_id, lambda: attempts.spend(failure, parts))
    _tried(question_id, lambda: _store(question_id, error))
    _tried(question_id, lambda: parts.streams.append(question_id, "error", error.to_json()))
    _tried(question_id, lambda: _fail_followers(question_id, error, parts))


def tell_cancelled(question_id: str, error: Cancelled, parts: Parts) -> None:
    """Tell the workers, so that they stop, then those who wait for the answer; raises where Redis can't be reached."""
    parts.cancellations.announce(question_id)
    _store(question_id, error)
    parts.streams.append(question_id, "error", error.to_json())
    flights.send_again(parts.flights.land(question_id, {}, 1.0), parts)


def _fail_followers(question_id: str, error: CeleriacError, parts: Parts) -> None:
    """What the leader failed with each of them would fail with, but for the time, of which they may have more."""
    followers = parts.flights.land(question_id, {}, 1.0)
    if isinstance(error, DeadlineExceeded):
        flights.send_again(followers, parts)
        return
    if error.retryable and followers:  # what it lacked may have been time
        deadline = parts.questions.find(question_id).question.deadline
        followers = flights.patient_sent_again(followers, deadline, parts)
    for follower in followers:
        _tried(follower.question_id, partial(_fail_follower, follower, error, parts))


def _fail_follower(follower: Follower, error: CeleriacError, parts: Parts) -> None:
    question = parts.questions.find(follower.question_id).question
    fail_question(follower.question_id, error, follower.epoch, attempts.failure_unseen(question))


def _store(question_id: str, error: CeleriacError) -> None:
    app.backend.store_result(question_id, error, states.FAILURE)


def _tried(question_id: str, tell: Callable[[], bool | None]) -> bool | None:
    try:
        return tell()
    except Exception as error:  # noqa: BLE001 - the next place must be told all the same
        _log.error("a failure could not be told", question=question_id, error=str(wrap(error)))
        return None
