"""What a task would leave behind for the garbage collector: every delivery of ours is a :class:`TidyRequest`.

Two cycles of Celery's keep all that a slot of a gevent worker has touched until the next full collection, which is
rare: 32 KB for each question, and hundreds for one that is tried again or cancelled.
"""

from __future__ import annotations

from typing import Any

from billiard.einfo import ExceptionWithTraceback  # type: ignore[import-untyped]
from celery.worker.request import Request

from tasks import runtime


class TidyRequest(Request):  # type: ignore[misc]  # Celery ships no types
    """A delivery after which nothing of it is left once nobody holds it any more."""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Called in the slot before the task is run. Celery gives each greenlet a bound method of itself, which does
        nothing; one that is not bound makes no cycle.
        """
        if runtime.is_patched():
            import gevent

            gevent.getcurrent().terminate = _do_nothing
        super().on_accepted(pid, time_accepted)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Called for whatever a task raised, when all who want to know it were told."""
        try:
            return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        finally:
            _let_go(raised(exc_info))


def raised(exc_info: Any) -> BaseException:
    """What a task raised."""
    error: BaseException = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def _let_go(error: BaseException | None) -> None:
    """Of the frames: that of Celery's tracer holds the error, whose traceback holds that frame and all it called."""
    while error is not None:
        following = error.__cause__ or error.__context__
        error.__traceback__ = error.__cause__ = error.__context__ = None
        error = following


def _do_nothing(_signal: Any = None) -> None:
    """In the place of Celery's own, which does no more."""
