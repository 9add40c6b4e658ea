"""Ingest runs and their manifests: one row per source, so that a run can be picked up from any crash."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from pipeline.adapters.postgres.engine import statement, transaction
from pipeline.adapters.postgres.knowledge_bases import knowledge_base
from pipeline.adapters.postgres.rows import as_json, recordset
from pipeline.errors import CeleriacError, Conflict, NotFound
from pipeline.types import Failure, Progress, Run, RunKind, RunOptions, RunStatus, RunSummary, Source

_CREATE = sa.text("INSERT INTO runs (id, kb_id, options, kind) VALUES (:id, :kb_id, CAST(:options AS jsonb), :kind)")
# Of two sources with the same key the last one counts, in the place of the first.
_ADD_ITEMS = sa.text("""
INSERT INTO run_items (run_id, number, key, source)
SELECT :run_id, r.number, r.key, r.source
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(number integer, key text, source jsonb)
ON CONFLICT ON CONSTRAINT run_items_key DO UPDATE SET source = excluded.source
RETURNING xmax = 0 AS added
""")
_ADD_BATCH = sa.text("""
INSERT INTO run_batches (run_id, number, first_item, last_item, items, stage)
SELECT :run_id, :number, :first, :last, :items, CASE kind WHEN 'reembed' THEN 'embed' ELSE 'parse' END
FROM runs WHERE id = :run_id AND CAST(:items AS integer) > 0
""")
_BEAT = sa.text("""
UPDATE runs SET heartbeat_at = now() WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'discovering'
""")
# With its first lane: should nobody come to open the others, the sweep finds that one silent and sends the run.
_START = sa.text("""
WITH started AS (UPDATE runs SET status = 'running' WHERE id = :id AND status = 'discovering' RETURNING id)
INSERT INTO run_lanes (run_id, lane) SELECT id, 0 FROM started
""")
_FIND = sa.text("""
SELECT r.id::text, r.status, r.kind, r.options, r.pruned, r.error, k.id::text AS kb_id, t.name AS tenant, k.name,
    k.embedding_model, k.dimensions, k.store, k.created_at, k.building_model, k.building_dimensions, k.previous_model,
    k.previous_dimensions
FROM runs r JOIN knowledge_bases k ON k.id = r.kb_id JOIN tenants t ON t.id = k.tenant_id WHERE r.id = :id
""")
_LIST = sa.text("""
SELECT r.id::text, r.kind, t.name AS tenant, k.name AS kb, r.status, r.created_at, r.finished_at,
    coalesce(b.items, 0) AS items, coalesce(b.over, 0) AS over, coalesce(b.failed, 0) AS failed
FROM (
    SELECT r.* FROM runs r JOIN knowledge_bases k ON k.id = r.kb_id JOIN tenants t ON t.id = k.tenant_id
    WHERE t.name = :tenant AND (:status = '' OR r.status = :status)
      AND r.id BETWEEN CAST(:lowest AS uuid) AND CAST(:highest AS uuid)
    ORDER BY r.created_at DESC LIMIT :limit
) r JOIN knowledge_bases k ON k.id = r.kb_id JOIN tenants t ON t.id = k.tenant_id
LEFT JOIN LATERAL (
    SELECT sum(items) AS items, sum(done + unchanged + failed) AS over, sum(failed) AS failed
    FROM run_batches WHERE run_id = r.id
) b ON true
ORDER BY r.created_at DESC
""")
_PROGRESS = sa.text("""
SELECT stage, sum(items) AS items, sum(done) AS done, sum(unchanged) AS unchanged, sum(failed) AS failed,
    sum(chunks) AS chunks, sum(embedded) AS embedded
FROM run_batches WHERE run_id = :run_id GROUP BY stage
""")
_FAILURES = sa.text("""
SELECT number, key, error, stage, attempt, failed_at FROM run_items
WHERE run_id = :run_id AND status = 'failed' AND failed_at > coalesce(CAST(:after AS timestamptz), '-infinity')
ORDER BY failed_at, number LIMIT :limit
""")
_FINISH = sa.text("""
UPDATE runs SET status = :status, error = CAST(:error AS jsonb), finished_at = now()
WHERE id = :id AND status IN ('discovering', 'running')
  -- A late message of an end that was before the run went on again ends nothing.
  AND (:status <> 'done' OR NOT EXISTS (SELECT FROM run_batches WHERE run_id = :id AND stage <> 'over'))
""")
_COUNT_PRUNED = sa.text("UPDATE runs SET pruned = pruned + :count WHERE id = :id")
_CANCEL_ALL = sa.text("""
UPDATE runs SET status = 'cancelled', finished_at = now()
WHERE kb_id = :kb_id AND status IN ('discovering', 'running')
""")
_ABANDONED = sa.text("""
SELECT id::text FROM runs
WHERE status = 'discovering' AND heartbeat_at < now() - make_interval(secs => :seconds)
""")
_LOCK = sa.text("""
SELECT status, EXISTS (SELECT FROM run_lanes l WHERE l.run_id = runs.id) AS listed,
    kind = 'ingest' OR EXISTS (SELECT FROM knowledge_bases k WHERE k.id = runs.kb_id
        AND k.building_model = options->>'model' AND k.building_dimensions = (options->>'dimensions')::integer)
        AS wanted
FROM runs WHERE id = :id FOR UPDATE
""")
_COUNT_OPEN = sa.text("SELECT coalesce(sum(items), 0) FROM run_batches WHERE run_id = :id AND stage <> 'over'")
# A batch's `failed` counts exactly the items that are queued again with it.
_REQUEUE_BATCHES = sa.text("""
UPDATE run_batches b SET failed = 0, lane = NULL, holder = NULL, deaths = 0, crash = NULL,
    stage = CASE kind WHEN 'reembed' THEN 'embed' ELSE 'parse' END
FROM runs r WHERE r.id = :id AND b.run_id = :id AND b.failed > 0
""")
_REQUEUE_ITEMS = sa.text("""
UPDATE run_items SET status = 'queued', error = NULL, stage = NULL, attempt = NULL, failed_at = NULL, crashes = 0,
    document_id = NULL, generation = NULL
WHERE run_id = :id AND failed_at IS NOT NULL
""")
_REOPEN = sa.text("UPDATE runs SET status = 'running', error = NULL, finished_at = NULL WHERE id = :id")

_DIGITS = 32
_BEGINNING = re.compile(rf"[0-9a-f]{{1,{_DIGITS}}}")


class Runs:
    """The ledger of ingest runs."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    # ------------------------------------------------------------------ the manifest

    def create(self, run_id: str, kb_id: str, options: RunOptions, kind: RunKind = "ingest") -> None:
        """A new run in status ``discovering``."""
        values = {"id": run_id, "kb_id": kb_id, "options": as_json(options.encode()), "kind": kind}
        with statement(self._engine) as connection:
            connection.execute(_CREATE, values)

    def add(self, run_id: str, batch: int, sources: Iterable[tuple[int, Source]]) -> int:
        """Add a batch of sources, numbered in order, to the manifest; returns how many are new in the run.

        Of two with the same key in one call or run the last one counts.
        """
        last = {source.key: (number, source) for number, source in sources}
        numbers = [number for number, _ in last.values()]
        rows = recordset(
            {"number": number, "key": key, "source": source.encode()} for key, (number, source) in last.items()
        )
        with transaction(self._engine) as connection:
            added = sum(bool(row[0]) for row in connection.execute(_ADD_ITEMS, {"run_id": run_id, "rows": rows}))
            place = {"first": min(numbers), "last": max(numbers), "items": added}
            connection.execute(_ADD_BATCH, {"run_id": run_id, "number": batch, **place})
            connection.execute(_BEAT, {"ids": [run_id]})
        return added

    def beat(self, run_ids: Sequence[str]) -> None:
        """Whoever lists the sources of these runs lives, however long it waits for the next one."""
        with statement(self._engine) as connection:
            connection.execute(_BEAT, {"ids": list(run_ids)})

    def start(self, run_id: str) -> bool:
        """The manifest is complete; False: the run is over already."""
        with statement(self._engine) as connection:
            return connection.execute(_START, {"id": run_id}).rowcount == 1

    # ------------------------------------------------------------------ looking

    def find(self, run_id: str) -> Run:
        """The run with its knowledge base; raises NotFound."""
        with statement(self._engine) as connection:
            row = connection.execute(_FIND, {"id": run_id}).mappings().first()
        if row is None:
            raise NotFound(f"There is no run {run_id}.", "Its knowledge base may have been deleted.")
        return _run(row)

    def progress(self, run_id: str) -> Progress:
        """Counts, from the batches: cheap also for a million sources."""
        with statement(self._engine) as connection:
            rows = connection.execute(_PROGRESS, {"run_id": run_id}).mappings().all()
        ended = {row["stage"]: row["done"] + row["unchanged"] + row["failed"] for row in rows}
        counts = {
            name: sum(row[name] for row in rows) for name in ("done", "unchanged", "failed", "chunks", "embedded")
        }
        waiting = {row["stage"]: row["items"] - ended[row["stage"]] for row in rows if row["stage"] != "over"}
        return Progress(waiting=waiting, **counts)

    def failures(self, run_id: str, *, after: datetime | None = None, limit: int = 20) -> list[Failure]:
        """Failed sources that failed later than ``after``, in the order they failed."""
        values = {"run_id": run_id, "after": after, "limit": limit}
        with statement(self._engine) as connection:
            return [_failure(row) for row in connection.execute(_FAILURES, values).mappings()]

    def matching(self, tenant: str, prefix: str, limit: int = 20) -> list[RunSummary]:
        """Runs of a tenant whose id begins so, newest first; none where that is no beginning of an id."""
        digits = prefix.replace("-", "").lower()
        if not _BEGINNING.fullmatch(digits):
            return []
        return self._summaries(tenant, "", limit, lowest=digits.ljust(_DIGITS, "0"), highest=digits.ljust(_DIGITS, "f"))

    # ------------------------------------------------------------------ ending, and going on

    def count_pruned(self, run_id: str, count: int) -> None:
        """So many more documents were deleted because the run did not meet them."""
        with statement(self._engine) as connection:
            connection.execute(_COUNT_PRUNED, {"id": run_id, "count": count})

    def finish(self, run_id: str, status: RunStatus, *, error: CeleriacError | None = None) -> bool:
        """End the run; False: it was over already, or is not ``done`` because sources are open. Those stay so: the run
        may go on later.
        """
        values = {
            "id": run_id,
            "status": status,
            "error": None if error is None else as_json(error.to_json()),
        }
        with statement(self._engine) as connection:
            return connection.execute(_FINISH, values).rowcount == 1

    def cancel(self, run_id: str) -> bool:
        """End the run as cancelled: no stage begins after that; False: it was over already."""
        return self.finish(run_id, "cancelled")

    def cancel_all(self, kb_id: str) -> None:
        """End all runs of a knowledge base that is about to be deleted."""
        with statement(self._engine) as connection:
            connection.execute(_CANCEL_ALL, {"kb_id": kb_id})

    def reopen(self, run_id: str) -> int:
        """Let a cancelled or failed run go on; returns how many sources are open. Raises Conflict, NotFound."""
        with transaction(self._engine) as connection:
            self._lock_ended(connection, run_id)
            waiting = int(connection.execute(_COUNT_OPEN, {"id": run_id}).scalar() or 0)
            if not waiting:
                raise Conflict(f"Run {run_id} has nothing left to do.", "`runs retry` takes what failed.")
            connection.execute(_REOPEN, {"id": run_id})
        return waiting

    def requeue(self, run_id: str) -> int:
        """Queue the failed sources of a run again and let it go on; returns how many. Raises Conflict, NotFound."""
        with transaction(self._engine) as connection:
            self._lock_ended(connection, run_id)
            connection.execute(_REQUEUE_BATCHES, {"id": run_id})
            failed = connection.execute(_REQUEUE_ITEMS, {"id": run_id}).rowcount
            if not failed:
                raise Conflict(f"Run {run_id} has no failed source.", "`runs resume` goes on with a cancelled run.")
            connection.execute(_REOPEN, {"id": run_id})
        return failed

    def abandoned(self, seconds: float) -> list[str]:
        """Ids of runs whose sources nobody has listed on for so long."""
        with statement(self._engine) as connection:
            return list(connection.execute(_ABANDONED, {"seconds": seconds}).scalars())

    def _summaries(self, tenant: str, status: str, limit: int, *, lowest: str, highest: str) -> list[RunSummary]:
        values = {"tenant": tenant, "status": status, "limit": limit, "lowest": lowest, "highest": highest}
        with statement(self._engine) as connection:
            return [RunSummary.model_validate(dict(row)) for row in connection.execute(_LIST, values).mappings()]

    def _lock_ended(self, connection: sa.Connection, run_id: str) -> None:
        row = connection.execute(_LOCK, {"id": run_id}).mappings().first()
        if row is None:
            raise NotFound(f"There is no run {run_id}.", "See `manage.py runs list`.")
        if row["status"] in ("discovering", "running"):
            raise Conflict(f"Run {run_id} is still under way.", "Wait for its end, or cancel it first.")
        if not row["listed"]:
            raise Conflict(f"The sources of run {run_id} were never all listed.", "Ingest again.")
        if not row["wanted"]:
            raise Conflict(f"The index that run {run_id} built is in use, or was given up.", "`kb show` tells which.")

    def list(self, tenant: str, status: str = "", limit: int = 20) -> list[RunSummary]:
        """Runs of a tenant, newest first."""
        return self._summaries(tenant, status, limit, lowest="0" * _DIGITS, highest="f" * _DIGITS)


def _run(row: Mapping[Any, Any]) -> Run:
    own = ("id", "status", "kind", "pruned", "error")
    kb = {name: value for name, value in row.items() if name not in (*own, "options", "kb_id")}
    fields = {name: row[name] for name in own}
    options = RunOptions.decode(row["options"])
    return Run.model_validate(fields | {"kb": knowledge_base(kb | {"id": row["kb_id"]}), "options": options})


def _failure(row: Mapping[Any, Any]) -> Failure:
    error = row["error"]
    return Failure(
        number=row["number"],
        document=row["key"],
        stage=row["stage"] or "",
        attempt=row["attempt"] or 1,
        http_status=error.get("detail", {}).get("status"),
        failed_at=row["failed_at"],
        **{name: error[name] for name in ("code", "message", "hint", "retryable")},
    )
