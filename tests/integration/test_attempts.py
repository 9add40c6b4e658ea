"""What a task that is sent again carries through the broker: which attempt it is, and since when it is tried."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import Retry

from pipeline.errors import Busy, CeleriacError, Postponed, ServerFault

if TYPE_CHECKING:
    from tasks.base import StageTask

QUEUE = "control"  # nobody serves it here


@pytest.fixture
def task(app: Any) -> StageTask:
    """A task whose attempts are patient."""
    found: StageTask = app.tasks["ingest.finalize"]
    return found


def sent_again(app: Any, task: StageTask, error: CeleriacError, headers: dict[str, Any]) -> dict[str, Any]:
    """One attempt that ends with ``error``, by a message with these headers; the headers of the one that follows."""
    own = {"id": str(uuid.uuid4()), "delivery_info": {"exchange": "", "routing_key": QUEUE}}
    task.push_request(args=["run"], kwargs={}, called_directly=False, **{**headers, **own})
    try:
        with pytest.raises(Retry), task.attempt(patience=60):
            raise error
    finally:
        task.pop_request()
    return received(app, own["id"])


def received(app: Any, task_id: Any) -> dict[str, Any]:
    """Headers of the message with that id, taken from the queue."""
    with app.connection_for_read() as connection, connection.SimpleQueue(app.amqp.queues[QUEUE]) as queue:
        while (message := queue.get(timeout=10)).headers["id"] != task_id:
            message.ack()
        message.ack()
    return dict(message.headers)


def test_a_failure_counts_as_an_attempt(app: Any, task: StageTask) -> None:
    headers = sent_again(app, task, ServerFault("It broke."), {})
    assert headers["attempt_number"] == 2
    assert sent_again(app, task, ServerFault("It broke."), headers)["attempt_number"] == 3


@pytest.mark.parametrize("kind", [Postponed, Busy])
def test_a_wait_counts_as_none(app: Any, task: StageTask, kind: type[CeleriacError]) -> None:
    headers: dict[str, Any] = {}
    for _ in range(3):
        headers = sent_again(app, task, kind("Not now.", "", {"retry_after": 1}), headers)
    assert (headers["attempt_number"], headers["retries"]) == (1, 3)


def test_the_time_of_the_first_attempt_stays(app: Any, task: StageTask) -> None:
    first = sent_again(app, task, ServerFault("It broke."), {})
    assert time.time() - first["first_attempt_at"] < 60
    later = sent_again(app, task, Postponed("Not now."), first)
    assert later["first_attempt_at"] == first["first_attempt_at"]


def test_patience_is_counted_from_the_first_attempt(app: Any, task: StageTask) -> None:
    begun_long_ago = {"first_attempt_at": time.time() - 61}
    task.push_request(args=["run"], kwargs={}, called_directly=False, id=str(uuid.uuid4()), **begun_long_ago)
    try:
        with pytest.raises(ServerFault), task.attempt(patience=60):
            raise ServerFault("It broke.")
    finally:
        task.pop_request()
