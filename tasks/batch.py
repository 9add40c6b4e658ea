"""Many questions, so many of them under way at once.

asker = Asker(parts, open_questions("questions.txt"), batch_id=str(uuid.uuid4()), concurrency=20)
for result in asker.results(): ...

One thread does it all. It sends questions until enough are under way, and looks up to twenty times a second which of
them are over. Nobody reads along, so one MGET for all costs less than a reader for each, or than one reader of all that
is woken by every piece of every answer.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from pipeline.batch import identity
from pipeline.batch.identity import Terms
from pipeline.batch.lines import Line
from pipeline.batch.result import Result
from pipeline.errors import Cancelled, CeleriacError, Conflict, DeadlineExceeded, InputError, NotFound, from_json, wrap
from pipeline.types import Answer, Question, Usage
from pipeline.wiring import Parts
from tasks.app import app
from tasks.broker import reaching_redis
from tasks.client import GRACE, Client

PATIENCE = 60.0
"""How long Redis or Postgres may be away, in seconds."""
# Seconds between two looks: the first where the last one found something, else longer and longer.
_LOOK_AGAIN, _LOOK_AT_LEAST = 0.05, 0.2
# A question that takes longer may have ended without a result in Redis: so often its row is looked at.
_ROWS_EVERY = 5.0
_PAUSE_IN_OUTAGE = 0.5


_End = Answer | CeleriacError
_Ended = tuple[str, _End]


class _UnderWay(NamedTuple):
    line: Line
    question: Question


class _Row(NamedTuple):
    question: Question
    end: _End | None


class Asker:
    """Asks the questions of a batch once each. What it holds does not grow with their number."""

    def __init__(
        self,
        parts: Parts,
        lines: Iterable[Line],
        *,
        batch_id: str,
        terms: Terms | None = None,
        concurrency: int = 20,
        may_ask: Callable[[int], bool] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """``batch_id`` is a UUID. Lines are taken as they are asked, ``concurrency`` of them at once, as long as
        ``may_ask`` says so of the number that is under way.

        A question that an earlier process asked for the same batch is not asked again: its answer is fetched, or waited
        for. One that failed then is asked anew. Outages of up to ``patience`` seconds are borne.
        """
        self._parts = parts
        self._client = Client(parts)
        self._lines = iter(lines)
        self._batch_id = batch_id
        self._terms = terms or Terms()
        self._concurrency = concurrency
        self._may_ask = may_ask or (lambda _under_way: True)
        self._asking, self._hearing = _Outage(patience), _Outage(patience)
        self._under_way: dict[str, _UnderWay] = {}
        self._next: Line | None = None
        self._exhausted = False
        self._leave_at: float | None = None
        self._rows_at = time.monotonic() + _ROWS_EVERY

    @property
    def under_way(self) -> int:
        """How many questions were asked and are not over."""
        return len(self._under_way)

    @property
    def is_complete(self) -> bool:
        """Whether every line has had its result."""
        return self._exhausted and not self._under_way

    @property
    def outage(self) -> CeleriacError | None:
        """Why Redis or Postgres can't be used just now."""
        return self._asking.cause or self._hearing.cause

    def stop(self, wait: float = 0.0) -> None:
        """Ask no more, and leave to the workers what is under way after ``wait`` seconds. For signal handlers, too."""
        self._leave_at = time.monotonic() + wait

    def results(self) -> Iterator[Result]:
        """Results as they come. Raises what ``lines`` raises, and what keeps a service away for too long."""
        for came in self.turns():
            yield from came

    def turns(self) -> Iterator[list[Result]]:
        """What has come since the last turn, maybe nothing; five to twenty times a second."""
        pause = _LOOK_AGAIN
        while True:
            until = time.monotonic() + _LOOK_AGAIN
            came = [*self._ask_until(until), *self._heard()]
            yield came
            if self._is_over():
                return
            pause = _LOOK_AGAIN if came else min(_LOOK_AT_LEAST, pause * 1.5)
            time.sleep(_PAUSE_IN_OUTAGE if self.outage else max(0.0, until - _LOOK_AGAIN + pause - time.monotonic()))

    def _is_over(self) -> bool:
        if self._leave_at is not None:
            return not self._under_way or time.monotonic() >= self._leave_at
        return not self._under_way and (self._exhausted or not self._may_ask(0))

    # ------------------------------------------------------------------ asking

    def _ask_until(self, moment: float) -> list[Result]:
        """Ask as many as may be under way, at most until ``moment``; returns results that were there already."""
        came: list[Result] = []
        while self._leave_at is None and time.monotonic() < moment and self._has_room():
            if self._next is None:
                self._next = next(self._lines, None)
            if self._next is None:
                self._exhausted = True
                break
            try:
                came += self._ask(self._next)
            except CeleriacError as error:
                self._asking.bear(error)
                break
            self._asking.end()
            self._next = None
        return came

    def _has_room(self) -> bool:
        return len(self._under_way) < self._concurrency and self._may_ask(len(self._under_way))

    def _ask(self, line: Line) -> Iterator[Result]:
        terms = self._terms
        try:
            new = self._client.question(
                line.text,
                kb=terms.kb_of(line),
                tenant=terms.tenant,
                options=terms.options_of(line).model_copy(update={"bulk": True}),
                timeout=terms.timeout,
            )
        except InputError as error:
            yield self._result(line, "", error)
            return
        for attempt in itertools.count(1):
            asked = new.model_copy(update={"id": identity.question_id(self._batch_id, terms.key_of(line), attempt)})
            asked, end = self._submit(asked)
            if end is None:
                self._under_way[asked.id] = _UnderWay(line, asked)
                return
            if isinstance(end, Answer):
                yield self._result(line, asked.id, end)
                return

    def _submit(self, question: Question) -> _Row:
        """Submit it, unless that was done before; returns it as its row has it."""
        try:
            self._client.submit(question)
        except Conflict:
            return self._row(question.id)
        return _Row(question, None)

    def _row(self, question_id: str) -> _Row:
        record = self._parts.questions.find(question_id)
        asked, late = record.question, time.time() > record.question.deadline + GRACE
        if record.status == "done":
            return _Row(asked, record.answer)
        if record.error is not None:
            return _Row(asked, from_json(record.error))
        if record.status == "queued":  # past its time nobody works on it, even if no sweep has said so yet
            return _Row(asked, DeadlineExceeded("No answer came in time.") if late else None)
        return _Row(asked, Cancelled("The question was cancelled."))

    # ------------------------------------------------------------------ hearing

    def _heard(self) -> list[Result]:
        """Results of questions that are over by now."""
        came: list[Result] = []
        try:
            for question_id, end in self._ends():
                came.append(self._result(self._under_way[question_id].line, question_id, end))
                del self._under_way[question_id]
        except CeleriacError as error:
            self._hearing.bear(error)
        else:
            self._hearing.end()
        return came

    def _ends(self) -> Iterator[_Ended]:
        yield from _stored(list(self._under_way))
        if time.monotonic() < self._rows_at:
            return
        self._rows_at = time.monotonic() + _ROWS_EVERY
        sent_before = time.time() - _ROWS_EVERY
        slow = [known for known, asked in self._under_way.items() if asked.question.submitted_at < sent_before]
        late = [known for known in slow if self._under_way[known].question.deadline + GRACE < time.time()]
        # What Redis has lost is in the rows.
        for known in {*self._parts.questions.over(slow), *late} if slow else ():
            if (end := self._row(known).end) is not None:
                yield known, end

    def _result(self, line: Line, question_id: str, end: _End) -> Result:
        answer = end if isinstance(end, Answer) else None
        return Result(
            line=line.number,
            key=self._terms.key_of(line),
            status="failed" if answer is None else "done",
            id=line.id or None,
            question=line.text,
            kb=self._terms.kb_of(line),
            extra=dict(line.extra),
            question_id=question_id,
            seconds=None if answer is None else sum(t.queue_ms + t.run_ms for t in answer.timings) / 1000,
            answer=answer,
            error=end.to_json() if isinstance(end, CeleriacError) else None,
            usage=self._used(question_id) if answer is None and question_id else None,
        )

    def _used(self, question_id: str) -> Usage | None:
        """What a question cost that failed. Where Postgres can't be asked, its end is heard later."""
        try:
            return self._parts.questions.find(question_id).usage
        except NotFound:
            return None


class _Outage:
    """Bears that a service is away, for a while."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since = 0.0
        self.cause: CeleriacError | None = None

    def bear(self, error: CeleriacError) -> None:
        """Raise the error if it can't pass, or hasn't for too long."""
        if not error.retryable:
            raise error
        if self.cause is None:
            self._since = time.monotonic()
        self.cause = error
        if time.monotonic() - self._since >= self._patience:
            raise error

    def end(self) -> None:
        """It is back."""
        self.cause = None


def _stored(question_ids: list[str]) -> Iterator[_Ended]:
    """How those questions ended that have a result in Redis."""
    if not question_ids:
        return
    backend: Any = app.backend
    with reaching_redis():
        found = backend.mget([backend.get_key_for_task(known) for known in question_ids])
    for known, stored in zip(question_ids, found, strict=True):
        meta: dict[str, Any] = backend.decode_result(stored) if stored else {}
        if meta.get("status") == "SUCCESS":
            yield known, Answer.decode(meta["result"])
        elif meta.get("status") == "FAILURE":
            yield known, wrap(meta["result"])
