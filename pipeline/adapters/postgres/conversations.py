"""Conversations: what was asked and answered before, in the rows of the questions themselves.

A turn may have several rows. Asking it anew (a retry) adds one, and the newest that was answered is the turn; until
then the earlier one is. Replays are experiments with a question, so they are no part of the conversation. What failed
or was cancelled was never said.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.adapters.postgres.engine import statement
from pipeline.adapters.postgres.knowledge_bases import of_tenant
from pipeline.errors import BadSettings, NotFound
from pipeline.types import Conversation, Exchange, Turn, TurnRecord

_BEGIN = sa.text("INSERT INTO conversations (id, tenant, kb) VALUES (:id, :tenant, :kb)")
_COLUMNS = """
SELECT c.id::text, c.tenant, c.kb, c.turns, c.created_at, c.used_at, coalesce((
    SELECT left(q.question, 200) FROM questions q
    WHERE q.conversation_id = c.id AND q.replay_of IS NULL ORDER BY q.turn, q.submitted_at LIMIT 1), '') AS title
FROM conversations c
"""
_FIND = sa.text(_COLUMNS + "WHERE c.id = CAST(:id AS uuid) AND c.tenant = :tenant")
_LIST = sa.text(_COLUMNS + "WHERE c.tenant = :tenant ORDER BY c.used_at DESC LIMIT :limit")
_BEGINNING_WITH = sa.text("""
SELECT id::text FROM conversations
WHERE tenant = :tenant AND id BETWEEN CAST(:lowest AS uuid) AND CAST(:highest AS uuid) LIMIT :limit
""")
_DIGITS = 32
_EARLIER = sa.text("""
SELECT DISTINCT ON (turn)
    turn AS number, question, coalesce(standalone, '') AS standalone, left(answer, :chars) AS answer
FROM questions
WHERE conversation_id = CAST(:id AS uuid) AND turn < :number AND status = 'done' AND replay_of IS NULL
ORDER BY turn DESC, submitted_at DESC LIMIT :limit
""")
_TURNS = sa.text("""
SELECT turn AS number, id::text AS question_id, question, coalesce(standalone, '') AS standalone, status,
    coalesce(answer, '') AS answer, error, submitted_at AS asked_at
FROM questions
WHERE conversation_id = CAST(:id AS uuid) AND replay_of IS NULL ORDER BY turn DESC, submitted_at DESC LIMIT :limit
""")
_DELETE = sa.text("DELETE FROM conversations WHERE id = CAST(:id AS uuid) AND tenant = :tenant")


class Conversations:
    """The ledger of conversations; their questions are written by ``Questions.submit``."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    def begin(self, tenant: str, kb: str) -> str:
        """A new conversation with a knowledge base; returns its id."""
        conversation_id = str(uuid.uuid4())
        with statement(self._engine) as connection:
            connection.execute(_BEGIN, {"id": conversation_id, "tenant": tenant, "kb": kb})
        return conversation_id

    def find(self, conversation_id: str, tenant: str, kb: str | None = None) -> Conversation:
        """The conversation. Raises NotFound, also where it is another tenant's, and BadSettings where it is with
        another knowledge base than ``kb``.
        """
        with statement(self._engine) as connection:
            return find(connection, conversation_id, tenant, kb)

    def list(self, tenant: str, limit: int) -> list[Conversation]:
        """The ones used last first."""
        with statement(self._engine) as connection:
            rows = connection.execute(_LIST, {"tenant": tenant, "limit": limit}).mappings()
            return [Conversation.model_validate(dict(row)) for row in rows]

    def matching(self, tenant: str, beginning: str, limit: int = 2) -> Sequence[str]:
        """Ids of a tenant's conversations that begin so; ``beginning`` is made of hexadecimal digits and dashes."""
        digits = beginning.replace("-", "").lower()[:_DIGITS]
        bounds = {"lowest": digits.ljust(_DIGITS, "0"), "highest": digits.ljust(_DIGITS, "f")}
        with statement(self._engine) as connection:
            return connection.execute(_BEGINNING_WITH, bounds | {"tenant": tenant, "limit": limit}).scalars().all()

    def earlier(self, turn: Turn, *, limit: int, chars: int) -> Sequence[Exchange]:
        """What was answered before this turn: the last ``limit`` exchanges, oldest first, answers cut to ``chars``.

        A turn that is still open, as where two questions were asked at once, is not waited for.
        """
        values = {"id": turn.conversation, "number": turn.number, "limit": limit, "chars": chars}
        with statement(self._engine) as connection:
            rows = connection.execute(_EARLIER, values).mappings().all()
        return [Exchange.model_validate(dict(row)) for row in reversed(rows)]

    def turns(self, conversation_id: str, limit: int) -> Sequence[TurnRecord]:
        """The last ``limit`` questions, oldest first, whatever became of them; two of one turn are attempts at it."""
        with statement(self._engine) as connection:
            rows = connection.execute(_TURNS, {"id": conversation_id, "limit": limit}).mappings().all()
        return [TurnRecord.model_validate(dict(row)) for row in reversed(rows)]

    def delete(self, conversation_id: str, tenant: str) -> None:
        """Forget it with all its questions and answers; raises NotFound."""
        with statement(self._engine) as connection:
            values = {"id": canonical(conversation_id, tenant), "tenant": tenant}
            if connection.execute(_DELETE, values).rowcount == 0:
                raise _unknown(conversation_id, tenant)


def find(connection: sa.Connection, conversation_id: str, tenant: str, kb: str | None = None) -> Conversation:
    """See :meth:`Conversations.find`."""
    values = {"id": canonical(conversation_id, tenant), "tenant": tenant}
    row: Any = connection.execute(_FIND, values).mappings().first()
    if row is None:
        raise _unknown(conversation_id, tenant)
    found = Conversation.model_validate(dict(row))
    if kb not in (None, found.kb):
        raise BadSettings(
            f"Conversation {found.id} is with knowledge base {found.kb!r}, not {kb!r}.",
            f"Ask {found.kb!r}, or begin another conversation.",
        )
    return found


def canonical(conversation_id: str, tenant: str = "default") -> str:
    """The id as rows have it; raises NotFound for what can't be one."""
    try:
        return str(uuid.UUID(conversation_id))
    except ValueError:
        raise NotFound(f"{conversation_id[:60]!r} is no id of a conversation.", _listed(tenant)) from None


def _unknown(conversation_id: str, tenant: str) -> NotFound:
    # The same words where it is another tenant's: that it exists is none of this one's business.
    return NotFound(f"Tenant {tenant!r} has no conversation {conversation_id}.", _listed(tenant))


def _listed(tenant: str) -> str:
    return f"`manage.py conversations list{of_tenant(tenant)}` shows all."
