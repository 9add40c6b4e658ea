"""Redis as result backend without Celery's subscriptions.

Celery subscribes to the result of every task it sends, for whoever may wait for it. Nobody does: readers follow a
stream, and ask for a result when it is there. The subscriptions cost memory and time, and once Redis was away for
longer than a few retries, each sending of a chord fails until the process is started again.
"""

from __future__ import annotations

import time
from typing import Any

from celery.backends.redis import RedisBackend

from pipeline.errors import TimedOut

_LOOK_EVERY = 0.02


class AskedRedisBackend(RedisBackend):  # type: ignore[misc]  # Celery ships no types
    """Results are stored, counted and read as ever; nothing is subscribed to. See :func:`wait_for`."""

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:
        """Sending a task subscribes to nothing."""
        return {}

    def add_pending_result(self, result: Any, weak: bool = False, start_drainer: bool = True) -> Any:
        """Nobody waits for the result."""
        return result

    def add_pending_results(self, results: Any, weak: bool = False) -> Any:
        """Nobody waits for the results."""
        return results


def wait_for(backend: AskedRedisBackend, task_id: str, timeout: float) -> Any:
    """The result of a task, as soon as it is there; raises TimedOut after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found: Any = backend.get_task_meta(task_id)
        if found["status"] == "SUCCESS":
            return found["result"]
        time.sleep(_LOOK_EVERY)
    raise TimedOut(f"No worker answered within {timeout:g} s.", detail={"upstream": "worker"})
