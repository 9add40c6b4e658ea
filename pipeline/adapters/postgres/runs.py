"""Ingest runs and their manifests: one row per source, so that a run can be picked up from any crash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.adapters.postgres.engine import transaction
from pipeline.adapters.postgres.rows import as_json, recordset
from pipeline.errors import CeleriacError, NotFound
from pipeline.types import MAX_ATTEMPTS, Batch, ItemStatus, Run, RunItem, RunOptions, RunStatus, Source, Value

_CREATE = sa.text("INSERT INTO runs (id, kb_id, options) VALUES (:id, :kb_id, CAST(:options AS jsonb))")
_ADD = sa.text("""
INSERT INTO run_items (run_id, number, batch, key, source)
SELECT :run_id, r.number, r.batch, r.key, r.source
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(number integer, batch integer, key text, source jsonb)
ON CONFLICT ON CONSTRAINT run_items_key DO UPDATE SET source = excluded.source
""")
_BEAT = sa.text("UPDATE runs SET heartbeat_at = now() WHERE id = :id")
_START = sa.text("UPDATE runs SET status = 'running', heartbeat_at = now() WHERE id = :id AND status = 'discovering'")
_FIND = sa.text("""
SELECT r.id::text, r.status, r.options, r.epoch, r.pruned, r.error, k.id::text AS kb_id, t.name AS tenant, k.name,
    k.embedding_model, k.dimensions, k.store, k.created_at
FROM runs r JOIN knowledge_bases k ON k.id = r.kb_id JOIN tenants t ON t.id = k.tenant_id WHERE r.id = :id
""")
_ITEMS = sa.text("""
SELECT i.number, i.key, i.source, i.status, i.attempts, i.document_id::text, i.generation
FROM run_items i JOIN runs r ON r.id = i.run_id
WHERE i.run_id = :run_id AND i.batch = :batch AND i.status = :status AND r.status = 'running' ORDER BY i.number
""")
_TAKE = sa.text("""
UPDATE run_items SET attempts = attempts + 1, updated_at = now() WHERE run_id = :run_id AND number = ANY(:numbers)
""")
_FORGIVE = sa.text("UPDATE run_items SET attempts = 0 WHERE run_id = :run_id AND number = ANY(:numbers)")
# Of two deliveries side by side the first sets the generation, and both go on with that one: were the second to change
# it, the first would declare complete a generation that has no chunks yet.
_ADVANCE = sa.text("""
UPDATE run_items i SET status = r.status, attempts = 0, updated_at = now(),
    document_id = coalesce(r.document_id, i.document_id), generation = coalesce(r.generation, i.generation),
    chunks = coalesce(r.chunks, i.chunks), embedded = i.embedded + coalesce(r.embedded, 0)
FROM jsonb_to_recordset(CAST(:rows AS jsonb))
    AS r(number integer, status text, document_id uuid, generation integer, chunks integer, embedded integer)
WHERE i.run_id = :run_id AND i.number = r.number AND i.status IN ('queued', 'parsed', 'chunked', 'embedded')
  AND coalesce(i.generation = r.generation, true)
""")
_FAIL = sa.text("""
WITH failed AS (
    UPDATE run_items i SET status = 'failed', error = r.error, updated_at = now()
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(number integer, error jsonb)
    WHERE i.run_id = :run_id AND i.number = r.number AND i.status IN ('queued', 'parsed', 'chunked', 'embedded')
    RETURNING i.key, i.error
)
UPDATE documents d SET error = f.error, updated_at = now(),
    status = CASE WHEN d.live_generation IS NULL THEN 'failed' ELSE d.status END
FROM failed f, runs r WHERE r.id = :run_id AND d.kb_id = r.kb_id AND d.key = f.key
""")
_OPEN_NUMBERS = sa.text("""
SELECT number FROM run_items
WHERE run_id = :run_id AND status IN ('queued', 'parsed', 'chunked', 'embedded')
  AND (CAST(:batch AS integer) IS NULL OR batch = :batch) AND attempts >= :attempts
""")
_WAVE = sa.text("""
SELECT DISTINCT batch FROM run_items
WHERE run_id = :run_id AND status IN ('queued', 'parsed', 'chunked', 'embedded') AND attempts < :attempts
ORDER BY batch LIMIT :limit
""")
_PROGRESS = sa.text("""
SELECT status, count(*) AS items, sum(chunks) AS chunks, sum(embedded) AS embedded
FROM run_items WHERE run_id = :run_id GROUP BY status
""")
_FAILURES = sa.text("""
SELECT key, error FROM run_items WHERE run_id = :run_id AND status = 'failed' ORDER BY number LIMIT :limit
""")
_FINISH = sa.text("""
UPDATE runs SET status = :status, error = CAST(:error AS jsonb), pruned = :pruned, finished_at = now()
WHERE id = :id AND status IN ('discovering', 'running')
""")
_CANCEL_ALL = sa.text("""
UPDATE runs SET status = 'cancelled', finished_at = now()
WHERE kb_id = :kb_id AND status IN ('discovering', 'running')
""")
_CANCEL_ITEMS = sa.text("""
UPDATE run_items SET status = 'cancelled', updated_at = now()
WHERE run_id = :id AND status IN ('queued', 'parsed', 'chunked', 'embedded')
""")
_RESUBMIT = sa.text("""
UPDATE runs SET epoch = epoch + 1, heartbeat_at = now() WHERE id = :id AND status = 'running' RETURNING epoch
""")
_SILENT = sa.text("""
SELECT id::text, status FROM runs
WHERE status = 'running' AND heartbeat_at < now() - make_interval(secs => :seconds)
   OR status = 'discovering' AND heartbeat_at < now() - make_interval(secs => :listing_seconds)
""")
_ORIGINS = sa.text("""
SELECT DISTINCT document_id::text FROM run_items WHERE run_id = :run_id AND document_id IS NOT NULL
  AND document_id > CAST(:after AS uuid) ORDER BY 1 LIMIT :limit
""")


class Progress(Value):
    """How far a run is: items by status, chunks made and texts embedded so far."""

    items: dict[ItemStatus, int] = {}
    chunks: int = 0
    embedded: int = 0

    @property
    def total(self) -> int:
        """All items of the manifest."""
        return sum(self.items.values())

    @property
    def over(self) -> int:
        """Items that have reached an end."""
        return sum(self.items.get(status, 0) for status in ("done", "unchanged", "failed", "cancelled"))


class Runs:
    """The ledger of ingest runs."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    def create(self, run_id: str, kb_id: str, options: RunOptions) -> None:
        """A new run in status ``discovering``."""
        with transaction(self._engine) as connection:
            connection.execute(_CREATE, {"id": run_id, "kb_id": kb_id, "options": as_json(options.encode())})

    def add(self, run_id: str, batch: int, sources: Iterable[tuple[int, Source]]) -> None:
        """Add numbered sources to the manifest; of two with the same key in one call or run the last one counts."""
        last = {source.key: (number, source) for number, source in sources}
        rows = recordset(
            {"number": number, "batch": batch, "key": key, "source": source.encode()}
            for key, (number, source) in last.items()
        )
        with transaction(self._engine) as connection:
            connection.execute(_ADD, {"run_id": run_id, "rows": rows})
            connection.execute(_BEAT, {"id": run_id})

    def start(self, run_id: str) -> bool:
        """The manifest is complete; False: the run is over already."""
        with transaction(self._engine) as connection:
            return connection.execute(_START, {"id": run_id}).rowcount == 1

    def find(self, run_id: str) -> Run:
        """The run with its knowledge base; raises NotFound."""
        with transaction(self._engine) as connection:
            row = connection.execute(_FIND, {"id": run_id}).mappings().first()
        if row is None:
            raise NotFound(f"There is no run {run_id}.", "Its knowledge base may have been deleted.")
        return _run(row)

    def take(self, run_id: str, numbers: Sequence[int]) -> None:
        """Count one more attempt at the stage these items are at; moving on sets the count to zero."""
        with transaction(self._engine) as connection:
            connection.execute(_TAKE, {"run_id": run_id, "numbers": list(numbers)})
            connection.execute(_BEAT, {"id": run_id})

    def forgive(self, run_id: str, numbers: Sequence[int]) -> None:
        """Forget the attempts at these items: what went wrong was not their doing."""
        with transaction(self._engine) as connection:
            connection.execute(_FORGIVE, {"run_id": run_id, "numbers": list(numbers)})

    def items(self, batch: Batch, status: ItemStatus) -> list[RunItem]:
        """The items of a batch that wait at ``status``; none where the run is not running any more."""
        values = {"run_id": batch.run_id, "batch": batch.number, "status": status}
        with transaction(self._engine) as connection:
            return [_item(row) for row in connection.execute(_ITEMS, values).mappings()]

    def advance(self, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Move items on: each row has ``number`` and ``status`` and may have ``document_id``, ``generation``,
        ``chunks`` and ``embedded`` (added up). Items that are over stay as they are.
        """
        if rows:
            with transaction(self._engine) as connection:
                connection.execute(_ADVANCE, {"run_id": run_id, "rows": recordset(rows)})
                connection.execute(_BEAT, {"id": run_id})

    def fail(self, run_id: str, errors: Mapping[int, CeleriacError]) -> None:
        """End items by number with their causes; a document that was live before stays live."""
        if errors:
            rows = recordset({"number": number, "error": error.to_json()} for number, error in errors.items())
            with transaction(self._engine) as connection:
                connection.execute(_FAIL, {"run_id": run_id, "rows": rows})

    def open_numbers(self, run_id: str, batch: int | None = None, *, attempts: int = 0) -> list[int]:
        """Numbers of items that are not over, of one batch or all, tried at least ``attempts`` times."""
        values = {"run_id": run_id, "batch": batch, "attempts": attempts}
        with transaction(self._engine) as connection:
            return list(connection.execute(_OPEN_NUMBERS, values).scalars())

    def wave(self, run_id: str, limit: int) -> list[int]:
        """Numbers of the next batches with work left that hasn't been tried too often."""
        with transaction(self._engine) as connection:
            values = {"run_id": run_id, "limit": limit, "attempts": MAX_ATTEMPTS}
            return list(connection.execute(_WAVE, values).scalars())

    def progress(self, run_id: str) -> Progress:
        """Counts by status."""
        with transaction(self._engine) as connection:
            rows = connection.execute(_PROGRESS, {"run_id": run_id}).mappings().all()
        return Progress(
            items={row["status"]: row["items"] for row in rows},
            chunks=sum(row["chunks"] for row in rows),
            embedded=sum(row["embedded"] for row in rows),
        )

    def failures(self, run_id: str, limit: int = 20) -> list[tuple[str, dict[str, Any]]]:
        """(key, error) of failed items, in manifest order."""
        with transaction(self._engine) as connection:
            return [(row[0], row[1]) for row in connection.execute(_FAILURES, {"run_id": run_id, "limit": limit})]

    def document_ids(self, run_id: str, after: str, limit: int) -> list[str]:
        """Ids of the documents a run touched, in order, a page at a time."""
        values = {"run_id": run_id, "after": after, "limit": limit}
        with transaction(self._engine) as connection:
            return list(connection.execute(_ORIGINS, values).scalars())

    def finish(self, run_id: str, status: RunStatus, *, error: CeleriacError | None = None, pruned: int = 0) -> bool:
        """End the run, and with it the items that are still open; False: it was over already."""
        values = {
            "id": run_id,
            "status": status,
            "pruned": pruned,
            "error": None if error is None else as_json(error.to_json()),
        }
        with transaction(self._engine) as connection:
            changed = connection.execute(_FINISH, values).rowcount == 1
        if changed:
            # Not in one transaction: `advance` locks items first and the run last, and both would wait for each other.
            with transaction(self._engine) as connection:
                connection.execute(_CANCEL_ITEMS, {"id": run_id})
        return changed

    def cancel_all(self, kb_id: str) -> None:
        """End all runs of a knowledge base that is about to be deleted."""
        with transaction(self._engine) as connection:
            connection.execute(_CANCEL_ALL, {"kb_id": kb_id})

    def resubmit(self, run_id: str) -> int | None:
        """Begin a new epoch of a running run; None: it is over."""
        with transaction(self._engine) as connection:
            epoch = connection.execute(_RESUBMIT, {"id": run_id}).scalar()
        return None if epoch is None else int(epoch)

    def silent(self, seconds: float, listing_seconds: float = 300.0) -> list[tuple[str, RunStatus]]:
        """Open runs nobody has worked on for so long, as (id, status); listing sources may take longer in silence."""
        with transaction(self._engine) as connection:
            return [
                (row[0], row[1])
                for row in connection.execute(_SILENT, {"seconds": seconds, "listing_seconds": listing_seconds})
            ]


def _run(row: Mapping[Any, Any]) -> Run:
    names = ("tenant", "name", "embedding_model", "dimensions", "store", "created_at")
    kb = {"id": row["kb_id"], **{name: row[name] for name in names}}
    fields = {name: row[name] for name in ("id", "status", "epoch", "pruned", "error")}
    return Run.model_validate(fields | {"kb": kb, "options": RunOptions.decode(row["options"])})


def _item(row: Mapping[Any, Any]) -> RunItem:
    return RunItem.model_validate({**row, "source": Source.decode(row["source"])})
