"""Events of tasks, sent together.

Each event is a message of its own in a gevent worker: Celery joins them only where its own event loop runs. Four for
each task took a sixth of the processor time of a question.
"""

from __future__ import annotations

import threading
from typing import Any

from celery import bootsteps

_EVERY = 0.5
_AT_MOST = 200


class JoinedEvents(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Lets the events of tasks wait for each other, half a second at most."""

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, parent: Any, **options: Any) -> None:
        """Where Celery joins them itself there is nothing to do."""
        super().__init__(parent, **options)
        self._over = threading.Event()
        self._sender: threading.Thread | None = None

    def start(self, parent: Any) -> None:
        """On every connection, since each has a dispatcher of its own."""
        if parent.hub is None:
            parent.event_dispatcher.buffer_group = frozenset({"task"})
            parent.event_dispatcher.buffer_limit = _AT_MOST
            if self._sender is None:
                self._sender = threading.Thread(target=self._send, args=(parent,), name="events", daemon=True)
                self._sender.start()

    def shutdown(self, parent: Any) -> None:
        """Send no more."""
        self._over.set()

    def _send(self, parent: Any) -> None:
        while not self._over.wait(_EVERY):
            dispatcher = parent.event_dispatcher
            if dispatcher is not None:
                dispatcher.flush()  # what can't be sent it keeps
