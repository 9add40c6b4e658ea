"""Redis as result backend without Celery's subscriptions.

Celery subscribes to the result of every task it sends, for whoever may wait for it. Nobody does: readers follow a
stream, and ask for a result when it is there. The subscriptions cost memory and time, and once Redis was away for
longer than a few retries, each sending of a chord fails until the process is started again.
"""

from __future__ import annotations

import time
from typing import Any

import redis.exceptions
from celery import states
from celery.backends.redis import RedisBackend

from pipeline.errors import TimedOut

_LOOK_EVERY = 0.02
_AGAIN_AFTER = 0.5
_PATIENCE = 60.0
"""A worker that has a result to store waits so many seconds for a Redis that is away."""


class AskedRedisBackend(RedisBackend):  # type: ignore[misc]  # Celery ships no types
    """Results are stored, counted and read as ever; nothing is subscribed to. See :func:`wait_for`."""

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:
        """Sending a task subscribes to nothing."""
        return {}

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **options: Any
    ) -> Any:
        """As the base class; a worker waits for Redis. Celery gives a task up whose result it could not store, without
        a word: it would count as running, and its message as held, until the worker is started again.
        """
        end = time.monotonic() + (_PATIENCE if request is not None else 0.0)
        while True:
            try:
                return super().store_result(task_id, result, state, traceback, request, **options)
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
                if time.monotonic() + _AGAIN_AFTER > end:
                    raise
            time.sleep(_AGAIN_AFTER)

    def add_pending_result(self, result: Any, weak: bool = False, start_drainer: bool = True) -> Any:
        """Nobody waits for the result."""
        return result

    def add_pending_results(self, results: Any, weak: bool = False) -> Any:
        """Nobody waits for the results."""
        return results

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **options: Any
    ) -> Any:
        """As the base class, which looks before each result whether there is one of a success already: a success need
        not, since what it replaces says the same or less.
        """
        if state != states.SUCCESS:
            return super()._store_result(task_id, result, state, traceback, request, **options)
        meta = self._get_result_meta(result, state, traceback, request) | {"task_id": task_id}
        self._set_with_state(self.get_key_for_task(task_id), self.encode(meta), state)
        return result

    def _set(self, key: str, value: Any, expires: int | None = None) -> None:
        """As the base class, without telling subscribers: there are none."""
        self.client.set(key, value, ex=(self.expires if expires is None else expires) or None)


def wait_for(backend: AskedRedisBackend, task_id: str, timeout: float) -> Any:
    """The result of a task, as soon as it is there; raises TimedOut after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found: Any = backend.get_task_meta(task_id)
        if found["status"] == "SUCCESS":
            return found["result"]
        time.sleep(_LOOK_EVERY)
    raise TimedOut(f"No worker answered within {timeout:g} s.", detail={"upstream": "worker"})
