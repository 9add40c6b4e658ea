"""Submit, follow, read: what ``manage.py`` and a user's own code call.

client = Client(Parts(settings.load()))
question = client.question("What is acks_late?", kb="docs")
client.submit(question)
for event in client.follow(question): ...
answer = client.result(question.id)  # or client.cancel(question.id)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import structlog

from pipeline import citations
from pipeline.ask import replay as replaying
from pipeline.ask.question import new_question
from pipeline.ask.replay import Beginning
from pipeline.errors import Cancelled, CeleriacError, Conflict, DeadlineExceeded, TimedOut, Unreachable, wrap
from pipeline.types import Answer, AnswerEvent, AskOptions, Question, Turn
from pipeline.wiring import Parts
from tasks import ask as _ask  # noqa: F401 - Celery must know which results it is to ignore
from tasks import canvases, outcome
from tasks import ingest as _ingest  # noqa: F401
from tasks.app import app
from tasks.broker import reaching_redis

_log = structlog.get_logger(__name__)

# Before the first entry of a stream.
START = "0"
# In the position of a reader, before the writer whose answer it reads.
_WRITTEN_BY = "#"
# How often a reader that hears nothing looks whether the question is over, in seconds.
_LOOK_EVERY = 2.0
# How soon it tries again where Redis or Postgres is away, in seconds.
_AGAIN_AFTER = 0.3
# Questions of a conversation among which some may be under way: its newest.
_MOST_UNDER_WAY = 1000
GRACE = 10.0
"""After the deadline the workers and the sweep get so many seconds to say so themselves."""


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
        conversation: str | None = None,
    ) -> Question:
        """A question with an id and a deadline, the next one of ``conversation`` if that is given; raises BadQuestion
        for what the guard would refuse anyway.
        """
        turn = None if conversation is None else Turn(conversation=conversation)
        settings = self._parts.settings
        return new_question(text, settings, kb=kb, tenant=tenant, options=options, timeout=timeout, turn=turn)

    def begin(self, *, kb: str = "default", tenant: str = "default") -> str:
        """A new conversation with a knowledge base; returns its id. Raises NotFound where that isn't there."""
        self._parts.knowledge_bases.find(tenant, kb)
        return self._parts.conversations.begin(tenant, kb)

    def forget(self, conversation: str, *, tenant: str = "default") -> None:
        """Delete a conversation with all its questions, after giving up what is under way. Raises NotFound."""
        conversations = self._parts.conversations
        found = conversations.find(conversation, tenant)
        for turn in conversations.turns(found.id, _MOST_UNDER_WAY):
            if turn.status == "queued":
                self.cancel(turn.question_id)
        conversations.delete(found.id, tenant)

    def retry(self, question_id: str, *, timeout: float | None = None) -> Question:
        """Ask a question anew, with no cache; in a conversation in its old place, where the new answer takes that of
        the old one. Returns the new question.
        """
        old = self._parts.questions.find(question_id).question
        settings = self._parts.settings
        words = {"kb": old.kb, "tenant": old.tenant}
        options = old.options.model_copy(update={"cache": False, "bulk": False})  # somebody waits now
        again = new_question(old.text, settings, **words, options=options, timeout=timeout, turn=old.turn)
        self.submit(again)
        return again

    def submit(self, question: Question) -> str:
        """Write the question's row, then send its canvas; returns its id.

        Raises NotFound where it belongs to a conversation that its tenant hasn't.
        """
        numbered = self._parts.questions.submit(question)
        self._send(numbered, canvases.ask(numbered))
        return question.id

    def replay(
        self, question_id: str, stage: str, changes: Sequence[str] = (), *, timeout: float | None = None
    ) -> Beginning:
        """Ask a question that is over again, from ``stage`` on, with options changed as ``top_k=8`` says; returns the
        new question, and where it begins. Raises Conflict while the old one is open or where it can't begin there,
        BadSettings, NotFound.
        """
        record = self._parts.questions.find(question_id)
        first = replaying.require_stage(stage)
        options = replaying.changed(record.question.options, changes, first_stage=first)
        if record.status == "queued":
            raise Conflict(f"Question {question_id} is not over yet.", "Replay it once it is.")
        again = replaying.asked_again(record, self._parts, options, timeout)
        letter = self._parts.dead_letters.find(question_id)
        if letter is not None and letter.stage == first:
            begins = replaying.from_letter(again, *self._parts.dead_letters.state(question_id), self._parts)
        else:
            begins = replaying.from_row(again, record, first, self._parts)
        self._parts.questions.submit(begins.question)
        self._send(begins.question, canvases.ask(begins.question, begins.state, begins.stage))
        return begins

    def replay_dead(self, question_id: str, *, timeout: float | None = None) -> Beginning:
        """Ask a question that failed again, from the stage that it failed at; returns the new question, and where it
        begins. Its dead letter serves once: the second time raises Conflict.
        """
        letters = self._parts.dead_letters
        stage, state = letters.state(question_id)
        again = replaying.asked_again(self._parts.questions.find(question_id), self._parts, None, timeout)
        begins = replaying.from_letter(again, stage, state, self._parts)
        if not letters.replay(begins.question):
            hint = "If that failed too, it has a dead letter of its own; `manage.py dead show` tells which one it is."
            raise Conflict(f"Question {question_id} was replayed already.", hint)
        try:
            self._send(begins.question, canvases.ask(begins.question, begins.state, begins.stage))
        except CeleriacError:
            letters.release(question_id, begins.question.id)
            raise
        return begins

    def _send(self, question: Question, canvas: Any) -> None:
        try:
            with reaching_redis():
                canvas.apply_async()
        except CeleriacError as error:
            # In Postgres alone: Redis, where a reader would hear of it, is what can't be reached.
            self._parts.questions.fail(question.id, error, epoch=question.epoch)
            raise

    def follow(self, question: Question, *, position: str = START) -> Iterator[AnswerEvent]:
        """Pieces of the answer as they are written, from the first or from a ``position`` seen before; ends when the
        question does. An outage of Redis or Postgres is waited out. Raises DeadlineExceeded, at the latest some seconds
        after the question's deadline, or Unreachable where it could not be asked then.
        """
        position, _, writer = position.partition(_WRITTEN_BY)
        until = question.deadline + GRACE
        heard = "" if position == START else None
        while True:
            events, over, away = self._news(question.id, position, until)
            for event in events:
                position = event.position
                if event.kind == "follow":
                    continue
                if event.kind == "done":
                    yield from self._rest(question.id, heard, position, writer)
                if event.kind in ("done", "error"):
                    return
                if event.kind == "begin":
                    heard = ""
                writer = event.writer if event.kind == "begin" else writer or event.writer
                if event.writer == writer and event.kind == "text" and heard is not None:
                    heard += event.value
                if event.writer == writer:  # which whoever goes on from here must know, too
                    yield event.model_copy(update={"position": position + _WRITTEN_BY + writer})
            if over:
                yield from self._rest(question.id, heard, position, writer)
                return
            if time.time() > until:
                raise _unheard(question.id, away)

    def _rest(self, question_id: str, heard: str | None, position: str, writer: str) -> Iterator[AnswerEvent]:
        """What is missing where all was not told: Redis was away when it was written, or lost some of it, or another
        delivery than the one that was heard has ended first. If it is not at the end, the whole answer again.
        """
        try:
            answer = self.result(question_id)
            if answer is None:
                return
            if heard is None:
                heard = self._heard(question_id, position, writer)
        except CeleriacError:
            return
        if heard is not None and _is_all_of(heard, answer):
            return
        if heard is None or not answer.text.startswith(heard):
            yield AnswerEvent(kind="begin", value=1, writer=writer, position=START)
            heard = ""
        place = position + _WRITTEN_BY + writer
        yield AnswerEvent(kind="text", value=answer.text[len(heard) :], writer=writer, position=place)

    def _heard(self, question_id: str, position: str, writer: str) -> str | None:
        """What a reader that goes on from ``position`` has heard of this writer; None where nobody knows any more."""
        heard, begun_by, place = "", "", START
        while events := self._parts.streams.read(question_id, place, block=0.001):
            for event in events:
                place = event.position
                if event.kind == "begin":
                    heard, begun_by = "", event.writer
                elif event.kind == "text" and event.writer == begun_by:
                    heard += event.value
                if place == position:
                    return heard if begun_by == writer else None
        return None

    def result(self, question_id: str) -> Answer | None:
        """The answer from the result backend, or from the row once that has expired or where Redis can't be reached;
        None while there is none.

        Raises the error the question ended with, and NotFound for an unknown id.
        """
        try:
            state, value = _stored(question_id)
        except Unreachable:
            answer = self._parts.questions.answer(question_id)
            if answer is None:
                raise
            return answer
        if state == "SUCCESS":
            return Answer.decode(value)
        if state == "FAILURE":
            raise wrap(value)
        return self._parts.questions.answer(question_id)

    def cancel(self, question_id: str) -> bool:
        """Give a question up for good: its stream from the model is closed, no later stage begins, whoever waits is
        told. False: it had ended otherwise before. Raises NotFound, and Unreachable where the workers could not be
        told; then it is cancelled all the same, and a second call tells them.
        """
        questions = self._parts.questions
        if not questions.cancel(question_id) and questions.find(question_id).status != "cancelled":
            return False
        try:
            with reaching_redis():
                error = Cancelled(f"Question {question_id} was cancelled.")
                outcome.tell_cancelled(question_id, error, self._parts)
        except CeleriacError as failure:
            message = f"Question {question_id} is cancelled, but its workers could not be told: {failure.message}"
            raise Unreachable(message, "Cancel it again once Redis is back.", failure.detail) from failure
        return True

    def _news(
        self, question_id: str, position: str, until: float
    ) -> tuple[list[AnswerEvent], bool, CeleriacError | None]:
        """What came after ``position``; where nothing did for a while, or until that moment, whether the question is
        over; and what is away, if that could not be asked.
        """
        try:
            block = min(_LOOK_EVERY, max(_AGAIN_AFTER, until - time.time()))
            events = self._parts.streams.read(question_id, position, block=block)
            if events or not self._is_over(question_id):
                return events, False, None
            events = self._parts.streams.read(question_id, position, block=0.001)  # what came since the last look
            return events, True, None
        except (Unreachable, TimedOut) as error:
            # Of Redis or Postgres, not the question's own error: what was written is there when they are back.
            _log.info("reader waits", question=question_id, error=error.message)
            time.sleep(_AGAIN_AFTER)
            return [], False, error

    def _is_over(self, question_id: str) -> bool:
        state, _ = _stored(question_id)
        return state in ("SUCCESS", "FAILURE") or bool(self._parts.questions.over([question_id]))

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


def _is_all_of(heard: str, answer: Answer) -> bool:
    """Whether that is the answer, but for markers that were mended when it was recorded."""
    return heard == answer.text or citations.plain(heard, len(answer.passages)) == answer.text


def _unheard(question_id: str, away: CeleriacError | None) -> CeleriacError:
    """Why nothing was heard of a question in its time; ``away`` is of Redis or Postgres, if that was it."""
    detail = {"question": question_id}
    if away is None:
        return DeadlineExceeded("No answer came in time.", detail=detail)
    hint = f"The question may still be answered: `manage.py result {question_id}` once it is back."
    return Unreachable(away.message, hint, away.detail | detail)


def _stored(question_id: str) -> tuple[str, Any]:
    """State and value of a question's result in Redis."""
    with reaching_redis():
        # Not AsyncResult: that would subscribe to the id, and unsubscribe when it is collected.
        found: Any = app.backend.get_task_meta(question_id)
    return found["status"], found["result"]
