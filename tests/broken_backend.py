"""A task whose result can't be stored at first, nor that this failed; for a worker started with ``--include`` this."""

from __future__ import annotations

import time
from typing import Any

import redis

from tasks.app import app

_FAILS = 2
_failed = 0


class _Broken:
    """The backend, but that its first writings fail as they do where Redis is away for longer than anybody waits."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(app.backend, name)
        return _failing(found) if name in ("mark_as_done", "mark_as_failure") else found


def _failing(method: Any) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        global _failed
        if _failed < _FAILS:
            _failed += 1
            raise redis.exceptions.ConnectionError("Connection refused.")
        return method(*arguments, **named)

    return call


@app.task(name="ask.broken")
def broken() -> float:
    """When it ran."""
    return time.time()


broken.backend = _Broken()
