"""Submit, follow, read: what ``manage.py`` and a user's own code call.

client = Client(Parts(settings.load()))
question = client.question("What is acks_late?", kb="docs")
client.submit(question)
for event in client.follow(question): ...
answer = client.result(question.id)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from pipeline.ask.question import new_question
from pipeline.errors import CeleriacError, Conflict, DeadlineExceeded, wrap
from pipeline.types import Answer, AnswerEvent, AskOptions, Question
from pipeline.wiring import Parts
from tasks import ask as _ask  # noqa: F401 - Celery must know which results it is to ignore
from tasks import canvases
from tasks import ingest as _ingest  # noqa: F401
from tasks.app import app
from tasks.broker import reaching_redis

# Before the first entry of a stream.
START = "0"
# How often a reader that hears nothing looks whether the question is over, in seconds.
_LOOK_EVERY = 2.0
# After the deadline the workers and the sweep get this long to say so themselves.
_GRACE = 10.0


class Client:
    """The door to a running Celeriac."""

    def __init__(self, parts: Parts) -> None:
        """Over the parts of this process; needs Redis and Postgres, no model and no vector store."""
        self._parts = parts

    # ------------------------------------------------------------------ questions

    def question(
        self,
        text: str,
        *,
        kb: str = "default",
        tenant: str = "default",
        options: AskOptions | None = None,
        timeout: float | None = None,
    ) -> Question:
        """A question with an id and a deadline; raises BadQuestion for what the guard would refuse anyway."""
        settings = self._parts.settings
        return new_question(text, settings, kb=kb, tenant=tenant, options=options, timeout=timeout)

    def submit(self, question: Question) -> str:
        """Write the question's row, then send its canvas; returns its id."""
        self._parts.questions.submit(question)
        try:
            with reaching_redis():
                canvases.ask(question).apply_async()
        except CeleriacError as error:
            # In Postgres alone: Redis, where a reader would hear of it, is what can't be reached.
            self._parts.questions.fail(question.id, error, epoch=question.epoch)
            raise
        return question.id

    def follow(self, question: Question, *, position: str = START) -> Iterator[AnswerEvent]:
        """Pieces of the answer as they are written, from the first or from a ``position`` seen before; ends when the
        question does. Raises DeadlineExceeded, at the latest some seconds after the question's deadline.
        """
        writer = ""
        while True:
            events = self._parts.streams.read(question.id, position, block=_LOOK_EVERY)
            for event in events:
                position = event.position
                if event.kind in ("done", "error"):
                    return
                writer = event.writer if event.kind == "begin" else writer or event.writer
                if event.writer == writer:
                    yield event
            if not events and self._is_over(question.id):
                return
            if time.time() > question.deadline + _GRACE:
                raise DeadlineExceeded("No answer came in time.", detail={"question": question.id})

    def result(self, question_id: str) -> Answer | None:
        """The answer from the result backend, or from the row once that has expired; None while there is none.

        Raises the error the question ended with, and NotFound for an unknown id.
        """
        with reaching_redis():
            # Not AsyncResult: that would subscribe to the id, and unsubscribe when it is collected.
            found: Any = app.backend.get_task_meta(question_id)
            state, value = found["status"], found["result"]
        if state == "SUCCESS":
            return Answer.decode(value)
        if state == "FAILURE":
            raise wrap(value)
        return self._parts.questions.answer(question_id)

    def _is_over(self, question_id: str) -> bool:
        try:
            return self.result(question_id) is not None
        except CeleriacError:
            return True

    # ------------------------------------------------------------------ runs

    def start_run(self, run_id: str) -> None:
        """Hand a run whose manifest is complete to the workers."""
        if not self._parts.runs.start(run_id):
            raise Conflict(f"Run {run_id} is over already.", "Ingest again.")
        self._send_run(run_id)

    def cancel_run(self, run_id: str) -> bool:
        """End a run: no stage begins after that, and what is embedded stays paid for; False: it was over already."""
        kb = self._parts.runs.find(run_id).kb
        cancelled = self._parts.runs.cancel(run_id)
        self._parts.knowledge_bases.refresh_size(kb.id)
        return cancelled

    def resume_run(self, run_id: str) -> int:
        """Go on with a cancelled or failed run; returns how many sources are open. Raises Conflict, NotFound."""
        waiting = self._parts.runs.reopen(run_id)
        self._send_run(run_id)
        return waiting

    def retry_run(self, run_id: str) -> int:
        """Try the failed sources of a run again; returns how many. Raises Conflict, NotFound."""
        failed = self._parts.runs.requeue(run_id)
        self._send_run(run_id)
        return failed

    def _send_run(self, run_id: str) -> None:
        settings = self._parts.settings
        lanes = self._parts.batches.open_lanes(run_id, lanes=settings.waves_at_once, size=settings.wave_batches)
        try:
            with reaching_redis():
                for lane, step in lanes:
                    canvases.lane(run_id, lane, step).apply_async()
        except CeleriacError as error:
            self._parts.runs.finish(run_id, "failed", error=error)
            raise
