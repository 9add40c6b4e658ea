"""Stages of questions that failed for good, kept until somebody asks again or their time is over.

They are written with the failure itself, by ``Questions.fail``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from pipeline.adapters.postgres.engine import statement, transaction
from pipeline.adapters.postgres.questions import insert
from pipeline.errors import Conflict, NotFound
from pipeline.types import AskState, DeadLetter, Question

_COLUMNS = """
SELECT q.id::text AS question_id, q.tenant, q.kb, q.question AS text, d.stage, d.task, d.attempts, d.worker, q.error,
    d.failed_at, d.replayed_as::text
FROM dead_letters d JOIN questions q ON q.id = d.question_id
"""
_MATCHING = """
WHERE (CAST(:tenant AS text) IS NULL OR q.tenant = :tenant) AND (:cause = '' OR q.error->>'code' = :cause)
  AND d.failed_at >= coalesce(CAST(:since AS timestamptz), '-infinity') AND (:replayed OR d.replayed_as IS NULL)
"""
_LIST = sa.text(f"{_COLUMNS} {_MATCHING} ORDER BY d.failed_at DESC LIMIT :limit")
_FIND = sa.text(f"{_COLUMNS} WHERE d.question_id = CAST(:id AS uuid)")
_STATE = sa.text("SELECT stage, state FROM dead_letters WHERE question_id = CAST(:id AS uuid)")
_CLAIM = sa.text("""
UPDATE dead_letters SET replayed_as = CAST(:replay AS uuid)
WHERE question_id = CAST(:id AS uuid) AND replayed_as IS NULL
""")
_RELEASE = sa.text("""
UPDATE dead_letters SET replayed_as = NULL
WHERE question_id = CAST(:id AS uuid) AND replayed_as = CAST(:replay AS uuid)
""")
_DROP = sa.text("DELETE FROM dead_letters WHERE question_id = CAST(:id AS uuid)")
_EXPIRE = sa.text("""
DELETE FROM dead_letters WHERE question_id IN (
    SELECT question_id FROM dead_letters WHERE failed_at < now() - make_interval(secs => :seconds) LIMIT :limit
)
""")


class DeadLetters:
    """Where failed stages rest."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    def list(
        self,
        *,
        tenant: str | None = None,
        cause: str = "",
        since: datetime | None = None,
        replayed: bool = True,
        limit: int = 20,
    ) -> list[DeadLetter]:
        """The newest first. ``cause`` is the code of an error; without ``replayed`` only those that rest still."""
        values = {"tenant": tenant, "cause": cause, "since": since, "replayed": replayed, "limit": limit}
        with statement(self._engine) as connection:
            return [_letter(row) for row in connection.execute(_LIST, values).mappings()]

    def find(self, question_id: str) -> DeadLetter | None:
        """The dead letter of a question; None where it never failed, or the letter is gone."""
        with statement(self._engine) as connection:
            row = connection.execute(_FIND, {"id": question_id}).mappings().first()
        return None if row is None else _letter(row)

    def state(self, question_id: str) -> tuple[str, AskState]:
        """The failed stage, and what it was given; raises NotFound, and Conflict where this release can't read it."""
        with statement(self._engine) as connection:
            row = connection.execute(_STATE, {"id": question_id}).first()
        if row is None:
            raise NotFound(f"There is no dead letter of question {question_id}.", "`manage.py dead list` shows all.")
        try:
            return row.stage, AskState.decode(row.state)
        except ValidationError:
            hint = f"`manage.py replay {question_id} --from guard` asks it from the start."
            raise Conflict(f"The dead letter of {question_id} was written by another release.", hint) from None

    def replay(self, question: Question) -> bool:
        """Write the question that is made of a dead letter, once for each letter: False where there is none that
        rests still.
        """
        if question.replay is None:
            raise ValueError("a replay says what it is one of")
        with transaction(self._engine) as connection:
            claimed = connection.execute(_CLAIM, {"id": question.replay.of, "replay": question.id})
            if claimed.rowcount == 0:
                return False
            insert(connection, question)
        return True

    def release(self, question_id: str, replay: str) -> None:
        """The replay of that id was never sent: the letter rests again."""
        with statement(self._engine) as connection:
            connection.execute(_RELEASE, {"id": question_id, "replay": replay})

    def drop(self, question_id: str) -> bool:
        """Forget one; False: it wasn't there."""
        with statement(self._engine) as connection:
            return connection.execute(_DROP, {"id": question_id}).rowcount == 1

    def expire(self, seconds: float, limit: int = 1000) -> int:
        """Forget what is older, at most ``limit`` of it; returns how many."""
        with statement(self._engine) as connection:
            return connection.execute(_EXPIRE, {"seconds": seconds, "limit": limit}).rowcount


def _letter(row: Any) -> DeadLetter:
    return DeadLetter.model_validate(dict(row))
