"""Questions and what became of them. A terminal status is final: every update here is conditional on it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
import structlog
from pydantic import ValidationError

from pipeline.adapters.postgres import conversations
from pipeline.adapters.postgres.engine import fetched, first_line, statement, transaction
from pipeline.adapters.postgres.rows import as_json, recordset
from pipeline.cancelling import MOST_KNOWN
from pipeline.errors import Cancelled, CeleriacError, Conflict, NotFound
from pipeline.time_left import within
from pipeline.types import (
    Answer,
    AskOptions,
    CacheNote,
    Question,
    QuestionRecord,
    Replay,
    StageFailure,
    StageTiming,
    Turn,
    Usage,
)

_log = structlog.get_logger(__name__)

# Seconds after which a look whether questions are over is given up.
_LOOK = 3.0

_INSERT = """
INSERT INTO questions
    (id, tenant, kb, question, options, submitted_at, deadline_at, epoch, replay_of, replay_stage{more})
SELECT CAST(:id AS uuid), :tenant, :kb, :text, CAST(:options AS jsonb), to_timestamp(:submitted_at),
    to_timestamp(:deadline), :epoch, CAST(:replay_of AS uuid), :replay_stage{values}
ON CONFLICT (id) DO NOTHING
"""
_SUBMIT = sa.text(_INSERT.format(more="", values="") + "RETURNING id")
# The conversation's row is held for this statement only: who asks at once gets the next number and waits for no answer.
_NUMBERED = """
WITH c AS (
    UPDATE conversations SET turns = turns + CAST(:number = 0 AS integer), used_at = now()
    WHERE id = CAST(:conversation AS uuid) AND tenant = :tenant AND kb = :kb
    RETURNING id, CASE WHEN :number = 0 THEN turns ELSE :number END AS turn
)
"""
_AS_TURN = _INSERT.format(more=", conversation_id, turn", values=", c.id, c.turn FROM c") + "RETURNING turn"
_SUBMIT_TURN = sa.text(_NUMBERED + _AS_TURN)
_FINISH_ALL = sa.text("""
WITH ended AS (
    UPDATE questions q SET status = 'done', finished_at = now(), kb_id = :kb_id, outcome = r.outcome, mode = r.mode,
        answer = r.text, citations = r.citations, passages = r.passages, flags = r.flags, degraded = r.degraded,
        model = r.model, input_tokens = r.input_tokens, output_tokens = r.output_tokens,
        embedding_tokens = r.embedding_tokens, estimated_tokens = r.estimated_tokens, cost_usd = r.cost_usd
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(question_id uuid, epoch integer, outcome text, mode text,
        text text, citations jsonb, passages jsonb, flags jsonb, degraded jsonb, model text, input_tokens integer,
        output_tokens integer, embedding_tokens integer, estimated_tokens integer, cost_usd numeric, timings jsonb)
    WHERE q.id = r.question_id AND q.status = 'queued' AND q.epoch = r.epoch
    RETURNING q.id, r.timings
), timed AS (
    INSERT INTO stage_timings (question_id, ordinal, stage, queue_ms, run_ms, worker, attempt, error, cached)
    SELECT e.id, t.ordinal, t.stage, t.queue_ms, t.run_ms, t.worker, t.attempt, t.error, t.cached
    FROM ended e, jsonb_to_recordset(e.timings) AS t(ordinal smallint, stage text, queue_ms real, run_ms real,
        worker text, attempt smallint, error text, cached text)
)
SELECT id::text FROM ended
""")
_FAIL = sa.text("""
UPDATE questions SET status = 'failed', finished_at = now(), error = CAST(:error AS jsonb)
WHERE id = :id AND status = 'queued' AND epoch = :epoch
""")
_CANCEL = sa.text("""
UPDATE questions SET status = 'cancelled', finished_at = now(), error = CAST(:error AS jsonb)
WHERE id = CAST(:id AS uuid) AND status = 'queued'
""")
_CANCELLED = sa.text("""
SELECT id::text FROM questions WHERE status = 'cancelled' AND deadline_at > now()
ORDER BY deadline_at DESC LIMIT :most
""")
_TIMED = """
INSERT INTO stage_timings (question_id, ordinal, stage, queue_ms, run_ms, worker, attempt, error, cached)
SELECT q.id, r.ordinal, r.stage, r.queue_ms, r.run_ms, r.worker, r.attempt, r.error, r.cached
FROM jsonb_to_recordset(CAST(:timings AS jsonb)) AS r(ordinal smallint, stage text, queue_ms real, run_ms real,
    worker text, attempt smallint, error text, cached text),
"""
_WHERE_OPEN = "WHERE id = :id AND status = 'queued' AND epoch = :epoch RETURNING id), timed AS ("
# One statement, so that it is one round trip to Postgres and not four.
_FINISHED = """
WITH q AS (
    UPDATE questions SET status = 'done', finished_at = now(), kb_id = :kb_id, outcome = :outcome, mode = :mode,
        answer = :text, citations = CAST(:citations AS jsonb), passages = CAST(:passages AS jsonb),
        flags = CAST(:flags AS jsonb), degraded = CAST(:degraded AS jsonb), model = :model,
        input_tokens = :input_tokens, output_tokens = :output_tokens, embedding_tokens = :embedding_tokens,
        estimated_tokens = :estimated_tokens, cost_usd = :cost_usd, answer_key = CAST(:answer_key AS uuid),
        retrieval_key = CAST(:retrieval_key AS uuid), revision = :revision, standalone = nullif(:standalone, '')
"""
_COUNTED = " q) SELECT count(*) FROM q"
_FINISH = sa.text(_FINISHED + _WHERE_OPEN + _TIMED + _COUNTED)
# One statement: the failure, how the question came there and the dead letter are written together or not at all.
_CAME = """
        kb_id = CAST(:kb_id AS uuid), passages = CAST(:passages AS jsonb), flags = CAST(:flags AS jsonb),
        degraded = CAST(:degraded AS jsonb), model = :model, input_tokens = :input_tokens,
        output_tokens = :output_tokens, embedding_tokens = :embedding_tokens,
        estimated_tokens = :estimated_tokens, cost_usd = :cost_usd, standalone = nullif(:standalone, '')
"""
_FAILED = """
WITH q AS (
    UPDATE questions SET status = 'failed', finished_at = now(), error = CAST(:error AS jsonb),
"""
_KEPT = """ q), kept AS (
    INSERT INTO dead_letters (question_id, stage, task, attempts, worker, state)
    SELECT id, :stage, :task, :attempts, :worker, CAST(:state AS jsonb) FROM q
)
SELECT count(*) FROM q
"""
_FAIL_AT_STAGE = sa.text(_FAILED + _CAME + _WHERE_OPEN + _TIMED + _KEPT)
_WHERE_CANCELLED = """
    WHERE id = :id AND status = 'cancelled' AND epoch = :epoch AND passages IS NULL RETURNING id), timed AS (
"""
_NOTE_CANCELLED = sa.text("WITH q AS (UPDATE questions SET" + _CAME + _WHERE_CANCELLED + _TIMED + _COUNTED)
_RESUBMIT = sa.text("""
UPDATE questions SET epoch = epoch + 1 WHERE id = :id AND status = 'queued' RETURNING epoch
""")
_COLUMNS = """
SELECT id::text, tenant, kb, question, options, status, epoch, outcome, mode, answer, citations, passages, flags,
    degraded, error, model, input_tokens, output_tokens, embedding_tokens, estimated_tokens, cost_usd, kb_id::text,
    replay_of::text, replay_stage, conversation_id::text, turn, coalesce(standalone, '') AS standalone,
    extract(epoch FROM submitted_at)::float8 AS submitted_at,
    extract(epoch FROM deadline_at)::float8 AS deadline, extract(epoch FROM finished_at)::float8 AS finished_at
FROM questions
"""
_FIND = sa.text(_COLUMNS + "WHERE id = CAST(:id AS uuid)")
_OPEN = sa.text(_COLUMNS + "WHERE status = 'queued' AND submitted_at < to_timestamp(:before) ORDER BY submitted_at")
_OVER = sa.text("SELECT id::text FROM questions WHERE id = ANY(CAST(:ids AS uuid[])) AND status <> 'queued'")
_FIND_TIMINGS = sa.text("""
SELECT stage, queue_ms, run_ms, worker, attempt, error, cached FROM stage_timings
WHERE question_id = :id ORDER BY ordinal
""")
_REPLAYS = sa.text("SELECT id::text FROM questions WHERE replay_of = CAST(:id AS uuid) ORDER BY submitted_at")
_BEGINNING_WITH = sa.text("""
SELECT id::text FROM questions WHERE id BETWEEN CAST(:lowest AS uuid) AND CAST(:highest AS uuid) LIMIT :limit
""")
_DIGITS = 32


class Questions:
    """The ledger of questions."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    def submit(self, question: Question) -> Question:
        """Write the question before any message of it is sent; returns it with the number of its turn, if it is one.

        Raises Conflict for an id in use, and NotFound or BadSettings where the conversation isn't its tenant's, or is
        with another knowledge base.
        """
        with within(question.deadline - time.time()):
            if question.turn is None:
                if not fetched(self._engine, _SUBMIT, _columns(question)):
                    raise _in_use(question)
                return question
            with statement(self._engine) as connection:
                return insert(connection, question)

    def finish(
        self, answer: Answer, *, kb_id: str, epoch: int, kept: CacheNote | None = None, revision: int = 0
    ) -> bool:
        """Record the answer once, with ``kept`` as one for questions like it as long as the knowledge base is at that
        revision. False: it was over already, or a later submission has taken its place.
        """
        plain = answer.model_dump(mode="json")
        values = {
            "id": answer.question_id,
            "answer_key": kept and kept.answer,
            "retrieval_key": kept and kept.retrieval,
            "revision": None if kept is None else revision,
            "epoch": epoch,
            "kb_id": kb_id,
            **{name: plain[name] for name in ("outcome", "mode", "text", "standalone")},
            **answer.usage.model_dump(),
            **{name: as_json(plain[name]) for name in ("citations", "passages", "flags", "degraded")},
            "timings": recordset(_numbered(plain["timings"])),
        }
        return bool(fetched(self._engine, _FINISH, values)[0]["count"])

    def finish_all(self, answers: Sequence[Answer], epochs: Mapping[str, int], *, kb_id: str) -> list[str]:
        """Record answers as those of their questions, all at once; returns the ids of those that were not over, and at
        that epoch.
        """
        rows = [
            {
                **answer.model_dump(mode="json", exclude={"timings", "usage"}),
                **answer.usage.model_dump(),
                "epoch": epochs[answer.question_id],
                "timings": _numbered(timing.model_dump() for timing in answer.timings),
            }
            for answer in answers
        ]
        with statement(self._engine) as connection:
            return list(connection.execute(_FINISH_ALL, {"kb_id": kb_id, "rows": recordset(rows)}).scalars())

    def fail(self, question_id: str, error: CeleriacError, *, epoch: int, failure: StageFailure | None = None) -> bool:
        """Record the failure, and with ``failure`` what is known of it, and its dead letter; False: it was over
        already, or a later submission has taken its place.
        """
        values = {"id": question_id, "epoch": epoch, "error": as_json(error.to_json())}
        if failure is None:
            with statement(self._engine) as connection:
                return connection.execute(_FAIL, values).rowcount == 1
        # Its owner, who is told after that, is not to wait for a Postgres that says nothing.
        with within(failure.state.question.deadline - time.time()), statement(self._engine) as connection:
            return bool(connection.execute(_FAIL_AT_STAGE, values | _facts(failure)).scalar_one())

    def note_cancelled(self, question_id: str, *, epoch: int, failure: StageFailure) -> bool:
        """Add to the row of a question that was cancelled how far it came; False: it is on record already, or it was
        not cancelled.
        """
        with statement(self._engine) as connection:
            values = {"id": question_id, "epoch": epoch} | _facts(failure)
            return bool(connection.execute(_NOTE_CANCELLED, values).scalar_one())

    def cancel(self, question_id: str) -> bool:
        """End the question for good, whatever its epoch; False: it is over already, or there is none of that id."""
        values = {"id": question_id, "error": as_json(Cancelled("The question was cancelled.").to_json())}
        with statement(self._engine) as connection:
            return connection.execute(_CANCEL, values).rowcount == 1

    def cancelled(self) -> list[str]:
        """Ids of cancelled questions that workers may still be at, since their deadline is to come."""
        with statement(self._engine) as connection:
            return list(connection.execute(_CANCELLED, {"most": MOST_KNOWN}).scalars())

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

    def replays(self, question_id: str) -> list[str]:
        """Ids of the questions that asked this one again, in their order."""
        with statement(self._engine) as connection:
            return list(connection.execute(_REPLAYS, {"id": question_id}).scalars())

    def matching(self, beginning: str, limit: int = 2) -> list[str]:
        """Ids of questions that begin so; ``beginning`` is made of hexadecimal digits and dashes."""
        digits = beginning.replace("-", "").lower()
        bounds = {"lowest": digits.ljust(_DIGITS, "0"), "highest": digits.ljust(_DIGITS, "f")}
        with statement(self._engine) as connection:
            return list(connection.execute(_BEGINNING_WITH, bounds | {"limit": limit}).scalars())

    def answer(self, question_id: str) -> Answer | None:
        """The answer on record; None while the question is open; raises the error it ended with."""
        return self.find(question_id).outcome()

    def over(self, question_ids: Sequence[str]) -> set[str]:
        """Those of these questions that have reached an end. Whoever looks will look again: it takes no long time."""
        with within(_LOOK), statement(self._engine) as connection:
            return set(connection.execute(_OVER, {"ids": list(question_ids)}).scalars())

    def open_before(self, moment: float) -> list[Question]:
        """Questions without an end that were submitted before ``moment`` (Unix seconds), oldest first; without those
        that another release wrote and this one can't read.
        """
        with statement(self._engine) as connection:
            return list(_readable(connection.execute(_OPEN, {"before": moment}).mappings()))


def _readable(rows: Iterable[Any]) -> Iterator[Question]:
    for row in rows:
        try:
            yield _question(row)
        except ValidationError as error:
            _log.warning("a question can't be read", question=row["id"], error=first_line(error))


def insert(connection: sa.Connection, question: Question) -> Question:
    """Write the row of a new question, see :meth:`Questions.submit`."""
    values, turn = _columns(question), question.turn
    if turn is None:
        if connection.execute(_SUBMIT, values).first() is None:
            raise _in_use(question)
        return question
    values |= {"conversation": conversations.canonical(turn.conversation), "number": turn.number}
    number = connection.execute(_SUBMIT_TURN, values).scalar()
    if number is None:
        conversations.find(connection, turn.conversation, question.tenant, question.kb)
        raise _in_use(question)
    return question.model_copy(update={"turn": Turn(conversation=values["conversation"], number=number)})


def _columns(question: Question) -> dict[str, Any]:
    replay = question.replay
    return question.model_dump(exclude={"replay", "turn"}) | {
        "options": as_json(question.options.encode()),
        "replay_of": None if replay is None else replay.of,
        "replay_stage": None if replay is None else replay.stage,
    }


def _in_use(question: Question) -> Conflict:
    return Conflict(f"Question {question.id} was submitted already.", "Each question needs an id of its own.")


def _facts(failure: StageFailure) -> dict[str, Any]:
    state = failure.state.encode()
    usage = failure.usage
    return {
        **failure.model_dump(include={"stage", "task", "attempts", "worker"}),
        "kb_id": None if failure.state.kb is None else failure.state.kb.id,
        "state": _storable(state),
        **{name: _storable(state.get(name, [])) for name in ("passages", "flags", "degraded")},
        **usage.model_dump(),
        "standalone": failure.state.standalone,
        "timings": _storable(_numbered(timing.model_dump() for timing in failure.state.timings)),
    }


def _storable(value: Any) -> str:
    """JSON without what jsonb refuses: such a character may be the very cause of the failure."""
    return as_json(value).encode("utf-8", "replace").decode().replace("\\u0000", "\\ufffd")


def _numbered(timings: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"ordinal": n, **timing} for n, timing in enumerate(timings)]


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
        replay=None if row["replay_of"] is None else Replay(of=row["replay_of"], stage=row["replay_stage"]),
        turn=None if row["turn"] is None else Turn(conversation=row["conversation_id"], number=row["turn"]),
    )


def _record(row: Any, timings: Sequence[StageTiming]) -> QuestionRecord:
    return QuestionRecord.model_validate(
        {
            "question": _question(row),
            "answer": _answer(row, timings) if row["status"] == "done" else None,
            "timings": timings,
            "usage": _usage(row),
            **{name: row[name] for name in ("status", "kb_id", "error", "finished_at", "standalone")},
            **{name: row[name] or () for name in ("passages", "flags", "degraded")},
        }
    )


def _usage(row: Any) -> Usage:
    cost = row["cost_usd"]
    counts = ("input_tokens", "output_tokens", "embedding_tokens", "estimated_tokens")
    return Usage(
        model=row["model"] or "",
        cost_usd=None if cost is None else float(cost),
        **{name: row[name] or 0 for name in counts},
    )


def _answer(row: Any, timings: Sequence[StageTiming]) -> Answer:
    return Answer.model_validate(
        {
            "question_id": row["id"],
            "text": row["answer"],
            "timings": timings,
            "usage": _usage(row),
            **{name: row[name] for name in ("outcome", "mode", "standalone", "citations", "passages", "flags")},
            "degraded": row["degraded"],
        }
    )
