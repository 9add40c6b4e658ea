"""What all tasks share: retry by the error's own word, and the correlation id on every line of log."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from celery import Task
from celery.exceptions import Ignore, Reject, Retry

from pipeline.errors import Cancelled, CeleriacError, wrap
from pipeline.logs import correlated
from pipeline.settings import Settings
from tasks import attempts, runtime

_log = structlog.get_logger(__name__)

# Headers of a message that is sent again: when the first attempt was, in Unix seconds, and which attempt this is.
_FIRST_ATTEMPT = "first_attempt_at"
_ATTEMPT = "attempt_number"
_POSTGRES_EVERY = 2.0


class StageTask(Task):  # type: ignore[misc]  # Celery ships no types
    """One stage. It decodes, calls and encodes inside :meth:`attempt`."""

    abstract = True
    max_retries = None  # attempt() counts
    done_level = logging.INFO
    Request = "tasks.requests:CrashNotingRequest"
    throws = (CeleriacError,)  # attempt() logs them, and with a traceback what was none of ours before

    def urgency(self, args: Any) -> int | None:
        """The priority of its messages in Redis, which knows 0 (the most urgent), 3, 6 and 9; None: Celery's own."""
        return None

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Celery gives the tasks of a chain their parent's priority or none: not their own."""
        if options.get("priority") is None:
            options["priority"] = self.urgency(args)
        return super().apply_async(args, kwargs, **options)

    @contextmanager
    def attempt(self, deadline: float | None = None, patience: float | None = None, **ids: str) -> Iterator[int]:
        """Run one attempt (its number, from 1, is what ``with`` gives); a retryable failure is tried again.

        Where nothing was tried, since somebody else is at it or a service asked to wait, the number stays.

        What a failed one cost is noted for whoever hears that it failed (:func:`tasks.attempts.paid`).

        Retries end with CELERIAC_MAX_RETRIES, or where the next one would come after ``deadline`` (Unix seconds); with
        ``patience`` they end so many seconds after the first attempt, however many there were, but not with the first
        unless the service asked to wait. Then, and for all other errors, the error itself is the task's failure.
        """
        number = int(self.request.get(_ATTEMPT) or self.request.retries + 1)
        with correlated(task=self.name, **ids):
            begun, begun_at = time.perf_counter(), time.time()
            self.request.update(attempt=number, begun_at=begun_at)  # for whoever hears that it failed
            try:
                with attempts.noting_losses(self.request):
                    yield number
                ms = round((time.perf_counter() - begun) * 1000, 1)
                _log.log(self.done_level, "stage done", attempt=number, ms=ms)
            except Cancelled as error:
                # Whoever took over or gave up tells those who wait; a failure stored now would be heard as the outcome.
                _log.info("stage gave way", attempt=number, reason=error.message)
                attempts.note_cancelled(self.request, error)
                raise Ignore from error
            except Exception as error:
                failure = wrap(error)
                if failure is not error:
                    _log.exception("defect")
                first = float(self.request.get(_FIRST_ATTEMPT) or begun_at)
                delay = self._delay(failure, number, deadline, None if patience is None else first + patience)
                if delay is None:
                    _log.warning("stage failed", attempt=number, error=str(failure))
                    raise failure from error
                _log.info("stage retried", attempt=number, delay=round(delay, 2), error=failure.message)
                headers = {_FIRST_ATTEMPT: first, _ATTEMPT: number + failure.attempted}
                raise self._again(failure, delay, headers) from error

    def _again(self, failure: CeleriacError, delay: float, headers: dict[str, float]) -> Any:
        """What to raise so that this task runs again in ``delay`` seconds, with these headers."""
        try:
            arguments = attempts.arguments_after(self.request, failure)
            self.retry(args=arguments, exc=failure, countdown=delay, headers=headers)
        except Reject as refused:
            # It could not be sent. Celery would drop it: this message itself must come back instead.
            return Reject(refused.reason, requeue=True)
        except Retry as sent:
            return sent

    @property
    def worker(self) -> str:
        """The name of the worker that runs this."""
        return str(self.request.hostname or "")

    def _delay(
        self, error: CeleriacError, number: int, deadline: float | None, patient_until: float | None
    ) -> float | None:
        settings = runtime.parts().settings
        # Without Postgres not even a failure can be recorded: its return is waited for as long as there is time.
        awaited = deadline is not None and error.detail.get("upstream") == "postgres"
        if not error.retryable or (patient_until is None and number > settings.max_retries and not awaited):
            return None
        delay = backoff(error, number, settings)
        if deadline is not None and number == 1 and error.attempted and error.retry_after is None:
            patient_until = None  # the first try of a question may have hung for longer than that: one more
        if awaited:
            delay = min(delay, _POSTGRES_EVERY)
        ends = [end for end in (deadline, patient_until) if end is not None]
        return None if ends and time.time() + delay >= min(ends) else delay


def backoff(error: CeleriacError, number: int, settings: Settings) -> float:
    """Seconds to wait before the attempt after the ``number``-th: what the service asked for, or exponential with
    full jitter (the AWS Architecture Blog's "Exponential Backoff And Jitter", 2015) above a floor of a tenth.
    """
    asked = error.retry_after
    if asked is not None:
        # A longer countdown than the visibility timeout would be delivered twice.
        return min(asked, settings.visibility_timeout / 4) + random.uniform(0, settings.retry_backoff)
    most = min(settings.retry_backoff_max, settings.retry_backoff * 2 ** min(number - 1, 30))
    return random.uniform(most / 10, most)
