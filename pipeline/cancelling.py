"""Giving up a question while it is worked on: what is under way is called off, what comes next doesn't begin."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import Cancelled

MOST_KNOWN = 10_000
"""Cancelled questions that a process remembers, the newest ones: some 2 MB. An older one is still refused on record."""


class Abort:
    """Whether one piece of work is to be given up; safe to share between threads."""

    def __init__(self) -> None:
        """Not triggered."""
        # Held while an action runs: who leaves `calling` knows that the action is over, and will not come later.
        self._lock = threading.RLock()
        self._triggered = False
        self._actions: list[Callable[[], None]] = []

    @property
    def triggered(self) -> bool:
        """Whether it is; that never changes back."""
        return self._triggered

    def trigger(self) -> None:
        """Give it up, and call what is registered, each action once; a second time does nothing."""
        with self._lock:
            self._triggered = True
            actions, self._actions = self._actions, []
            for action in actions:
                action()

    def check(self) -> None:
        """Raise Cancelled if it is triggered."""
        if self._triggered:
            raise Cancelled("The question was cancelled.") from None

    @contextmanager
    def calling(self, action: Callable[[], None]) -> Iterator[None]:
        """Inside, ``action`` is called once when this is triggered, from whichever thread does it; at once where it is
        triggered already. It must return quickly and raise nothing.
        """
        with self._lock:
            if self._triggered:
                action()
            else:
                self._actions.append(action)
        try:
            yield
        finally:
            with self._lock:
                if action in self._actions:
                    self._actions.remove(action)


class LocalCancellations:
    """The :class:`pipeline.seams.Cancellations` of one process."""

    def __init__(self) -> None:
        """Knows of none."""
        self._lock = threading.Lock()
        self._known: dict[str, None] = {}  # in the order in which they were heard of
        self._watches: dict[str, list[Abort]] = {}

    @contextmanager
    def watch(self, question_id: str) -> Iterator[Abort]:
        """See :meth:`pipeline.seams.Cancellations.watch`."""
        abort = Abort()
        with self._lock:
            self._watches.setdefault(question_id, []).append(abort)
            known = question_id in self._known
        if known:
            abort.trigger()
        try:
            yield abort
        finally:
            self._end(question_id, abort)

    def is_cancelled(self, question_id: str) -> bool:
        """See :meth:`pipeline.seams.Cancellations.is_cancelled`."""
        return question_id in self._known

    def announce(self, question_id: str) -> None:
        """See :meth:`pipeline.seams.Cancellations.announce`."""
        with self._lock:
            self._known[question_id] = None
            if len(self._known) > MOST_KNOWN:
                del self._known[next(iter(self._known))]
            aborts = list(self._watches.get(question_id, ()))
        for abort in aborts:
            abort.trigger()

    def _end(self, question_id: str, abort: Abort) -> None:
        with self._lock:
            watches = self._watches[question_id]
            watches.remove(abort)
            if not watches:
                del self._watches[question_id]
