"""Keeping what this process holds alive while it works: leases on batches, and a run whose sources it lists."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from pipeline.errors import wrap

_log = structlog.get_logger(__name__)


class LeaseKeeper:
    """Renews all that this process holds, together, from one thread (a greenlet under gevent).

    What keeps it alive is that the process lives, however slow its work is.
    """

    def __init__(self, renew: Callable[[Sequence[str]], None], *, every: float) -> None:
        """``renew`` takes what is held; it is called every ``every`` seconds while there are any."""
        self._renew = renew
        self._every = every
        self._held: set[str] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextmanager
    def keeping(self, holder: str) -> Iterator[None]:
        """Keep this holder's lease alive inside the block."""
        with self._changed:
            self._held.add(holder)
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew_for_ever, name="leases", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._held.discard(holder)

    def _renew_for_ever(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(self._every)
            with self._changed:
                self._changed.wait_for(lambda: self._held)
                held = sorted(self._held)
            try:
                self._renew(held)
            except Exception as error:  # noqa: BLE001 - were this thread to end, no lease would be renewed any more
                # A lease that runs out costs a second delivery, no work: only the newest holder can write.
                _log.warning("leases not renewed", error=str(wrap(error)))
