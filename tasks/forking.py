"""Threads of a worker and the forks of its pool.

A prefork pool forks a new child whenever one has died, and in the child there is only the thread that forked. What
another thread held at that moment, as the lock of a property that kombu makes on first use, stays locked there: the
child takes a task, waits for that lock for ever, and the worker counts it as running.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

_log = structlog.get_logger(__name__)

LONGEST = 3.0
"""Seconds that a fork waits. The loop that serves all children makes it, and must not hang where a server does."""


class ForkGuard:
    """Holds up forks of this process while something is done that must not be cut in two.

    Each thread has its own, since a guard lets in one at a time; made once, for the life of the process, which never
    forgets what is to be done at forks.
    """

    def __init__(self, *, forks: bool = True) -> None:
        """From now on; where the process ``forks`` nothing, it is a lock and no more."""
        self._inside = threading.Lock()
        self._held_up = False
        if forks:
            os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Nothing forks meanwhile, for ``LONGEST`` seconds."""
        with self._inside:
            yield

    def _before(self) -> None:
        self._held_up = self._inside.acquire(timeout=LONGEST)
        if not self._held_up:
            _log.warning("forked beside a thread that was busy for long")

    def _in_parent(self) -> None:
        if self._held_up:
            self._inside.release()

    def _in_child(self) -> None:
        self._inside = threading.Lock()  # whoever held it is not here
