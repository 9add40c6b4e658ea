"""Questions and what became of them. A terminal status is final: every update here is conditional on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.adapters.postgres.engine import statement, transaction
from pipeline.adapters.postgres.rows import as_json, recordset
from pipeline.errors import CeleriacError, Conflict, NotFound, from_json
from pipeline.types import Answer, AskOptions, Question, QuestionStatus, StageTiming, Usage, Value

_SUBMIT = sa.text("""
INSERT INTO questions (id, tenant, kb, question, options, submitted_at, deadline_at, epoch)
VALUES (:id, :tenant, :kb, :text, CAST(:options AS jsonb), to_timestamp(:submitted_at), to_timestamp(:deadline), :epoch)
ON CONFLICT (id) DO NOTHING
""")
_FINISH = sa.text("""
UPDATE questions SET status = 'done', finished_at = now(), kb_id = :kb_id, outcome = :outcome, mode = :mode,
    answer = :text, citations = CAST(:citations AS jsonb), passages = CAST(:passages AS jsonb),
    flags = CAST(:flags AS jsonb), degraded = CAST(:degraded AS jsonb), model = :model, input_tokens = :input_tokens,
    output_tokens = :output_tokens, embedding_tokens = :embedding_tokens, cost_usd = :cost_usd
WHERE id = :id AND status = 'queued' AND epoch = :epoch
""")
_TIMINGS = sa.text("""
INSERT INTO stage_timings (question_id, ordinal, stage, queue_ms, run_ms, worker, attempt)
SELECT :id, r.ordinal, r.stage, r.queue_ms, r.run_ms, r.worker, r.attempt
FROM jsonb_to_recordset(CAST(:rows AS jsonb))
    AS r(ordinal smallint, stage text, queue_ms real, run_ms real, worker text, attempt smallint)
""")
_FAIL = sa.text("""
UPDATE questions SET status = 'failed', finished_at = now(), error = CAST(:error AS jsonb)
WHERE id = :id AND status = 'queued' AND epoch = :epoch
""")
_RESUBMIT = sa.text("""
UPDATE questions SET epoch = epoch + 1 WHERE id = :id AND status = 'queued' RETURNING epoch
""")
_COLUMNS = """
SELECT id::text, tenant, kb, question, options, status, epoch, outcome, mode, answer, citations, passages, flags,
    degraded, error, model, input_tokens, output_tokens, embedding_tokens, cost_usd,
    extract(epoch FROM submitted_at)::float8 AS submitted_at, extract(epoch FROM deadline_at)::float8 AS deadline
FROM questions
"""
_FIND = sa.text(_COLUMNS + "WHERE id = CAST(:id AS uuid)")
_OPEN = sa.text(_COLUMNS + "WHERE status = 'queued' AND submitted_at < to_timestamp(:before) ORDER BY submitted_at")
_FIND_TIMINGS = sa.text("""
SELECT stage, queue_ms, run_ms, worker, attempt FROM stage_timings WHERE question_id = :id ORDER BY ordinal
""")


class QuestionRecord(Value):
    """A question's row: what was asked, and its answer or its error once it is over."""

    question: Question
    status: QuestionStatus
    answer: Answer | None = None
    error: dict[str, Any] | None = None

    def outcome(self) -> Answer | None:
        """The answer; None while it is open; raises the error it failed with."""
        if self.error is not None:
            raise from_json(self.error)
        return self.answer


class Questions:
    """The ledger of questions."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    def submit(self, question: Question) -> None:
        """Write the question before any message of it is sent; raises Conflict for an id in use."""
        values = question.model_dump() | {"options": as_json(question.options.encode())}
        with statement(self._engine) as connection:
            if connection.execute(_SUBMIT, values).rowcount == 0:
                raise Conflict(
                    f"Question {question.id} was submitted already.", "Each question needs an id of its own."
                )

    def finish(self, answer: Answer, *, kb_id: str, epoch: int) -> bool:
        """Record the answer once. False: it was over already, or a later submission has taken its place."""
        values = {
            "id": answer.question_id,
            "epoch": epoch,
            "kb_id": kb_id,
            **answer.model_dump(include={"outcome", "mode", "text"}),
            **answer.usage.model_dump(),
            **{
                name: as_json(answer.model_dump(mode="json")[name])
                for name in ("citations", "passages", "flags", "degraded")
            },
        }
        rows = recordset({"ordinal": n, **timing.model_dump()} for n, timing in enumerate(answer.timings))
        with transaction(self._engine) as connection:
            if connection.execute(_FINISH, values).rowcount == 0:
                return False
            connection.execute(_TIMINGS, {"id": answer.question_id, "rows": rows})
        return True

    def fail(self, question_id: str, error: CeleriacError, *, epoch: int) -> bool:
        """Record the failure; False: it was over already, or a later submission has taken its place."""
        with statement(self._engine) as connection:
            values = {"id": question_id, "epoch": epoch, "error": as_json(error.to_json())}
            return connection.execute(_FAIL, values).rowcount == 1

    def resubmit(self, question_id: str) -> int | None:
        """Begin a new epoch, so that what is still under way for the old one can't be recorded; None: it is over."""
        with statement(self._engine) as connection:
            epoch = connection.execute(_RESUBMIT, {"id": question_id}).scalar()
        return None if epoch is None else int(epoch)

    def find(self, question_id: str) -> QuestionRecord:
        """The row of a question, with its timings; raises NotFound."""
        with transaction(self._engine) as connection:
            row = connection.execute(_FIND, {"id": question_id}).mappings().first()
            timings = connection.execute(_FIND_TIMINGS, {"id": question_id}).mappings().all()
        if row is None:
            raise NotFound(f"There is no question {question_id}.", "`manage.py ask --detach` prints the id to use.")
        return _record(row, [StageTiming.model_validate(dict(timing)) for timing in timings])

    def answer(self, question_id: str) -> Answer | None:
        """The answer on record; None while the question is open; raises the error it ended with."""
        return self.find(question_id).outcome()

    def open_before(self, moment: float) -> list[Question]:
        """Questions without an end that were submitted before ``moment`` (Unix seconds), oldest first."""
        with statement(self._engine) as connection:
            return [_question(row) for row in connection.execute(_OPEN, {"before": moment}).mappings()]


def _question(row: Any) -> Question:
    return Question(
        id=row["id"],
        text=row["question"],
        tenant=row["tenant"],
        kb=row["kb"],
        options=AskOptions.decode(row["options"]),
        submitted_at=row["submitted_at"],
        deadline=row["deadline"],
        epoch=row["epoch"],
    )


def _record(row: Any, timings: Sequence[StageTiming]) -> QuestionRecord:
    answer = _answer(row, timings) if row["status"] == "done" else None
    return QuestionRecord(question=_question(row), status=row["status"], answer=answer, error=row["error"])


def _answer(row: Any, timings: Sequence[StageTiming]) -> Answer:
    cost = row["cost_usd"]
    usage = Usage(
        cost_usd=None if cost is None else float(cost),
        **{name: row[name] for name in ("model", "input_tokens", "output_tokens", "embedding_tokens")},
    )
    return Answer.model_validate(
        {
            "question_id": row["id"],
            "text": row["answer"],
            "timings": timings,
            "usage": usage,
            **{name: row[name] for name in ("outcome", "mode", "citations", "passages", "flags", "degraded")},
        }
    )
