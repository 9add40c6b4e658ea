"""The caches' third level: rows of answered questions, and vectors of questions."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.adapters.postgres.engine import fetched, statement
from pipeline.adapters.postgres.knowledge_bases import FROM_TENANTS, KB_COLUMNS, knowledge_base, not_found
from pipeline.adapters.postgres.rows import as_json, recordset
from pipeline.caching.caches import NewVector, Stored
from pipeline.caching.keys import Keys
from pipeline.types import KnowledgeBase

# Whatever is kept is looked up by index in the statement that a question costs anyway.
_KEPT = """, a.id::text AS earlier,
    a.revision = k.revision AND a.finished_at > now() - make_interval(secs => :ttl) AS fresh, r.passages, v.vector
"""
_LOOKED_UP = """
LEFT JOIN LATERAL (
    SELECT q.id, q.revision, q.finished_at FROM questions q
    WHERE q.answer_key = CAST(:answer AS uuid) AND q.kb_id = k.id ORDER BY q.finished_at DESC LIMIT 1
) a ON true
LEFT JOIN LATERAL (
    SELECT q.passages FROM questions q
    WHERE q.retrieval_key = CAST(:retrieval AS uuid) AND q.kb_id = k.id AND q.revision = k.revision
      AND q.finished_at > now() - make_interval(secs => :ttl) LIMIT 1
) r ON true
LEFT JOIN question_vectors v ON v.space = k.embedding_model || '/' || k.dimensions AND v.key = CAST(:vector AS uuid)
    AND v.created_at > now() - make_interval(secs => :ttl)
WHERE t.name = :tenant AND k.name = :name
"""
_FIND_WITH = sa.text(KB_COLUMNS + _KEPT + FROM_TENANTS + _LOOKED_UP)
_SAVE = sa.text("""
INSERT INTO question_vectors (space, key, vector)
SELECT r.space, r.key, decode(r.vector, 'base64')
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(space text, key uuid, vector text)
ORDER BY r.space, r.key
ON CONFLICT (space, key) DO UPDATE SET created_at = now()
""")
_PRUNE = sa.text("""
DELETE FROM question_vectors WHERE (space, key) IN (
    SELECT space, key FROM question_vectors WHERE created_at < now() - make_interval(secs => :ttl) LIMIT :limit
)
""")
_AT_ONCE = 1000


class QuestionCache:
    """See :class:`pipeline.caching.caches.Catalogue` and :class:`pipeline.caching.caches.Vectors`."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    def find_with(self, tenant: str, name: str, keys: Keys, *, ttl: float) -> tuple[KnowledgeBase, Stored]:
        """A knowledge base, and what is kept for these keys and not older than ``ttl`` seconds; raises NotFound."""
        values = {"tenant": tenant, "name": name, "ttl": ttl, **keys._asdict()}
        found = fetched(self._engine, _FIND_WITH, values)
        if not found:
            raise not_found(tenant, name)
        [fields] = found
        kept = {column: fields.pop(column) for column in ("earlier", "fresh", "passages", "vector")}
        return knowledge_base(fields), _stored(kept)

    def save(self, vectors: Sequence[NewVector]) -> None:
        """Keep vectors of questions."""
        latest = {(new.space, new.key): new for new in vectors}
        rows = recordset({**new._asdict(), "vector": new.vector.decode()} for new in latest.values())
        with statement(self._engine) as connection:
            connection.execute(_SAVE, {"rows": rows})

    def prune(self, ttl: float) -> int:
        """Drop vectors that are older than ``ttl`` seconds, some at a time; returns how many."""
        with statement(self._engine) as connection:
            return connection.execute(_PRUNE, {"ttl": ttl, "limit": _AT_ONCE}).rowcount


def _stored(kept: Mapping[str, Any]) -> Stored:
    earlier, passages, vector = kept["earlier"] or "", kept["passages"], kept["vector"]
    return Stored(
        answer=earlier if kept["fresh"] else "",
        earlier=earlier,
        retrieval=None if passages is None else as_json(passages).encode(),
        vector=None if vector is None else base64.b64encode(vector),
    )
