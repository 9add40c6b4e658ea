"""Knowledge bases and their tenants."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from pipeline.adapters.postgres.engine import fetched, statement, transaction
from pipeline.errors import BadSettings, Conflict, NotFound, ServerFault
from pipeline.types import IndexRef, KnowledgeBase, StoreName

KB_COLUMNS = """
SELECT k.id::text, t.name AS tenant, k.name, k.embedding_model, k.dimensions, k.store, k.created_at, k.revision,
    k.building_model, k.building_dimensions, k.previous_model, k.previous_dimensions,
    CASE WHEN k.chunk_count > 0 THEN k.chunk_count ELSE (
        SELECT coalesce(sum(d.chunk_count), 0) FROM (
            SELECT chunk_count FROM documents WHERE kb_id = k.id AND live_generation IS NOT NULL LIMIT 1000
        ) d
    ) END AS chunks
"""
FROM_TENANTS = "FROM knowledge_bases k JOIN tenants t ON t.id = k.tenant_id"
_SELECT = KB_COLUMNS + FROM_TENANTS + " "
_FIND = sa.text(_SELECT + "WHERE t.name = :tenant AND k.name = :name")
_LIST = sa.text(_SELECT + "WHERE t.name = :tenant ORDER BY k.name")
_TENANT = sa.text("INSERT INTO tenants (name) VALUES (:tenant) ON CONFLICT (name) DO NOTHING")
_CREATE = sa.text("""
INSERT INTO knowledge_bases (tenant_id, name, embedding_model, dimensions, store)
SELECT id, :name, :model, :dimensions, :store FROM tenants WHERE name = :tenant
ON CONFLICT (tenant_id, name) DO NOTHING
""")
_DELETE = sa.text("DELETE FROM knowledge_bases WHERE id = :id")
_COUNTS = sa.text("""
SELECT count(*) FILTER (WHERE live_generation IS NOT NULL) AS documents,
       count(*) FILTER (WHERE status = 'failed') AS failed,
       coalesce(sum(chunk_count), 0) AS chunks
FROM documents WHERE kb_id = :id
""")
_REFRESH = sa.text("""
UPDATE knowledge_bases k SET chunk_count = counted.chunks, revision = k.revision + 1, settled_revision = k.revision + 1
FROM (SELECT coalesce(sum(chunk_count), 0) AS chunks FROM documents WHERE kb_id = :id) counted
WHERE k.id = :id AND (k.chunk_count <> counted.chunks OR k.settled_revision <> k.revision)
""")
_CHANGED = sa.text("UPDATE knowledge_bases SET revision = revision + 1 WHERE id = CAST(:id AS uuid)")

MAX_NAME_CHARS = 200

_DELETE_TRIES = 10
"""Each rolled back by another batch under way, after the second that Postgres waits before it looks for a deadlock."""


class KnowledgeBases:
    """The catalogue of knowledge bases."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    def find(self, tenant: str, name: str) -> KnowledgeBase:
        """The knowledge base of that name; raises NotFound."""
        found = fetched(self._engine, _FIND, {"tenant": tenant, "name": name})
        if not found:
            raise not_found(tenant, name)
        return knowledge_base(found[0])

    def list(self, tenant: str) -> tuple[KnowledgeBase, ...]:
        """All knowledge bases of a tenant, by name."""
        with statement(self._engine) as connection:
            return tuple(knowledge_base(row) for row in connection.execute(_LIST, {"tenant": tenant}).mappings())

    def create(self, tenant: str, name: str, *, model: str, dimensions: int, store: StoreName) -> KnowledgeBase:
        """A new, empty knowledge base; raises Conflict where the name is taken."""
        if not self._insert(tenant, name, model, dimensions, store):
            raise Conflict(f"Knowledge base {name!r} exists already.", "Choose another name, or delete it first.")
        return self.find(tenant, name)

    def find_or_create(self, tenant: str, name: str, *, model: str, dimensions: int, store: StoreName) -> KnowledgeBase:
        """The knowledge base of that name, made if it isn't there; safe when two do it at once."""
        self._insert(tenant, name, model, dimensions, store)
        return self.find(tenant, name)

    def delete(self, kb_id: str) -> None:
        """Remove it with all its documents, chunks and runs; questions asked of it stay.

        It locks from the knowledge base down, a batch that is being recorded from the bottom up: where they meet
        Postgres may roll this back (ServerFault), and it is tried again, since batches under way come to an end.
        """
        for tries_left in reversed(range(_DELETE_TRIES)):
            try:
                with statement(self._engine) as connection:
                    connection.execute(_DELETE, {"id": kb_id})
                return
            except ServerFault:
                if not tries_left:
                    raise

    def counts(self, kb_id: str) -> dict[str, int]:
        """How many live ``documents``, ``failed`` documents and live ``chunks`` it has."""
        with statement(self._engine) as connection:
            row = connection.execute(_COUNTS, {"id": kb_id}).mappings().one()
        return {name: int(count) for name, count in row.items()}

    def changed(self, kb_id: str) -> None:
        """Count a change of what a question can find: what is kept from before is not given any more."""
        with statement(self._engine) as connection:
            connection.execute(_CHANGED, {"id": kb_id})

    def refresh_size(self, kb_id: str) -> None:
        """Count its chunks anew when a change is complete; a question reads the count and doesn't add up all documents.

        The count weighs in the scores of what is found, and what was replaced has left the store: a change, too.
        """
        with statement(self._engine) as connection:
            connection.execute(_REFRESH, {"id": kb_id})

    def _insert(self, tenant: str, name: str, model: str, dimensions: int, store: StoreName) -> bool:
        _refuse_unusable("knowledge base", name)
        _refuse_unusable("tenant", tenant)
        values = {"tenant": tenant, "name": name, "model": model, "dimensions": dimensions, "store": store}
        with transaction(self._engine) as connection:
            connection.execute(_TENANT, {"tenant": tenant})
            return connection.execute(_CREATE, values).rowcount == 1


def not_found(tenant: str, name: str) -> NotFound:
    """The error for a knowledge base that isn't there."""
    where = "" if tenant == "default" else f" of tenant {_shown(tenant)!r}"
    its, kb = of_tenant(tenant), shlex.quote(_shown(name))
    return NotFound(
        f"There is no knowledge base {_shown(name)!r}{where}.",
        f"`manage.py kb list{its}` shows those there are; `manage.py ingest PATH --kb {kb}{its}` makes one.",
    )


def of_tenant(tenant: str) -> str:
    """What a command needs beside the rest to be about this tenant."""
    return "" if tenant == "default" else f" --tenant {shlex.quote(_shown(tenant))}"


def _refuse_unusable(kind: str, name: str) -> None:
    """A name is shown, typed and indexed: it needs a letter to see, nothing invisible, and an end."""
    if not name.strip() or not name.isprintable() or len(name) > MAX_NAME_CHARS:
        hint = f"Give it up to {MAX_NAME_CHARS} characters, all of them visible."
        raise BadSettings(f"{_shown(name)!r} can't be the name of a {kind}.", hint)


def _shown(name: str) -> str:
    return name if len(name) <= MAX_NAME_CHARS else f"{name[:50]}…"


def knowledge_base(row: Mapping[Any, Any]) -> KnowledgeBase:
    """From a row with the columns of the table, ``tenant`` and, if it is known, ``chunks``."""
    fields = dict(row)
    others = {name: index_of(fields, name) for name in ("building", "previous")}
    for name in others:
        del fields[f"{name}_model"], fields[f"{name}_dimensions"]
    return KnowledgeBase.model_validate(fields | others)


def index_of(row: Mapping[Any, Any], name: str) -> IndexRef | None:
    """The ``building`` or ``previous`` index of a knowledge base's row."""
    model = row[f"{name}_model"]
    return None if model is None else IndexRef(kb_id=row["id"], model=model, dimensions=row[f"{name}_dimensions"])
