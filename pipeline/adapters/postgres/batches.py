"""The batches of a run: leases on them, what a stage made of one, and the waves they are sent in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.adapters.postgres.engine import statement, transaction
from pipeline.adapters.postgres.rows import recordset
from pipeline.errors import Busy, Cancelled, CeleriacError
from pipeline.types import Batch, BatchOutcome, IngestStage, Lease, RunItem, Source, Wave

# ---------------------------------------------------------------------- leases

# The clock, not the beginning of the transaction: that may lie before a wait for the row.
_LOOK = sa.text("""
SELECT b.stage, b.holder IS NOT NULL AS held, b.first_item, b.last_item, b.lease_item, b.deaths, b.crash,
    CASE WHEN b.holder IS NOT NULL THEN extract(epoch FROM b.lease_until - clock_timestamp())::float8 END
        AS seconds_left
FROM run_batches b JOIN runs r ON r.id = b.run_id
WHERE b.run_id = :run_id AND b.number = :number AND b.stage = :stage AND r.status = 'running' FOR UPDATE OF b
""")
_TAKE = sa.text("""
UPDATE run_batches SET holder = :holder, lease_until = clock_timestamp() + make_interval(secs => :seconds),
    lease_item = NULL, fence = fence + 1, deaths = :deaths
WHERE run_id = :run_id AND number = :number RETURNING fence
""")
_COUNT_CRASH = sa.text("UPDATE run_items SET crashes = crashes + 1 WHERE run_id = :run_id AND number = :item")
_ITEMS = sa.text("""
SELECT number, key, source, document_id::text, generation, crashes FROM run_items
WHERE run_id = :run_id AND number BETWEEN :first AND :last AND status = 'queued' ORDER BY number
""")
_RENEW = sa.text("""
UPDATE run_batches SET lease_until = clock_timestamp() + make_interval(secs => :seconds) WHERE holder = ANY(:holders)
""")


def _under_lease(statement: str) -> sa.TextClause:
    """The statement, for the batch of a lease and only while nobody has taken a newer one."""
    return sa.text(f"{statement} WHERE run_id = :run_id AND number = :number AND holder = :holder AND fence = :fence")


_ALONE = _under_lease("UPDATE run_batches SET lease_item = :item")
_RELEASE = _under_lease("UPDATE run_batches SET holder = NULL, lease_item = NULL")
_CRASHED = sa.text("""
UPDATE run_batches SET lease_until = now(), crash = :cause
WHERE run_id = :run_id AND number = :number AND holder IS NOT NULL
""")

# ---------------------------------------------------------------------- outcomes

# An update only for its lock: whoever takes the lease over waits, or has done so and this changes nothing.
_LOCK = _under_lease("UPDATE run_batches SET fence = fence")
# The numbers stand in it twice, as in _FAIL: from the join alone the planner, which knows nothing yet of a run so new,
# makes a loop over all items of the run for each of them.
_VERSIONS = sa.text("""
UPDATE run_items i SET document_id = r.document_id, generation = r.generation
FROM unnest(CAST(:numbers AS int[]), CAST(:documents AS uuid[]), CAST(:generations AS int[]))
    AS r(number, document_id, generation)
WHERE i.run_id = :run_id AND i.number = ANY(:numbers) AND i.number = r.number AND i.status = 'queued'
""")
_END = sa.text("""
UPDATE run_items SET status = :status WHERE run_id = :run_id AND number = ANY(:numbers) AND status = 'queued'
""")
# Documents are always locked in the order of their keys, so that runs over the same ones wait and never deadlock.
_LOCK_DOCUMENTS = sa.text("""
SELECT FROM documents d JOIN runs r ON r.id = :run_id AND d.kb_id = r.kb_id
WHERE d.key = ANY(SELECT key FROM run_items WHERE run_id = :run_id AND number = ANY(:numbers))
ORDER BY d.key FOR NO KEY UPDATE OF d
""")
# A document that was live before stays live; and nothing is wrong with one that could not be embedded once more.
_FAIL = sa.text("""
WITH failed AS (
    UPDATE run_items i SET status = 'failed', error = r.error, stage = :stage, attempt = :attempt,
        failed_at = clock_timestamp()
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(number integer, error jsonb)
    WHERE i.run_id = :run_id AND i.number = ANY(:numbers) AND i.number = r.number AND i.status = 'queued'
    RETURNING i.key, i.error
), marked AS (
    UPDATE documents d SET error = f.error, updated_at = now(),
        status = CASE WHEN d.live_generation IS NULL THEN 'failed' ELSE d.status END
    FROM failed f, runs r WHERE r.id = :run_id AND r.kind = 'ingest' AND d.kb_id = r.kb_id AND d.key = f.key
)
SELECT count(*) FROM failed
""")
_RECORD = _under_lease("""
UPDATE run_batches SET done = done + :done, unchanged = unchanged + :unchanged, failed = failed + :failed,
    chunks = chunks + :chunks, embedded = embedded + :embedded, lease_item = NULL
""")
_MOVE_ON = _under_lease("""
UPDATE run_batches SET holder = NULL, lease_item = NULL, deaths = 0, crash = NULL,
    stage = CASE WHEN done + unchanged + failed >= items THEN 'over' ELSE :next END
""")
_ABANDONED = sa.text("""
SELECT b.first_item AS first, b.last_item AS last FROM run_batches b JOIN runs r ON r.id = b.run_id
WHERE b.run_id = :run_id AND b.number = :number AND b.stage = :stage AND r.status = 'running'
  AND (b.holder IS NULL OR b.lease_until <= now()) FOR UPDATE OF b
""")
_OPEN_ITEMS = sa.text("""
SELECT number FROM run_items WHERE run_id = :run_id AND number BETWEEN :first AND :last AND status = 'queued'
""")
_GIVE_UP = sa.text("""
UPDATE run_batches SET stage = 'over', holder = NULL, fence = fence + 1, failed = failed + :failed
WHERE run_id = :run_id AND number = :number
""")

# ---------------------------------------------------------------------- waves

_ADD_LANES = sa.text("""
INSERT INTO run_lanes (run_id, lane)
SELECT :run_id, lane FROM generate_series(0, least(:lanes, greatest(1, ceil(
    (SELECT count(*) FROM run_batches WHERE run_id = :run_id)::float8 / :size)))::int - 1) AS lane
ON CONFLICT DO NOTHING
""")
_BUMP = sa.text("""
UPDATE run_lanes l SET step = l.step + 1, sent_at = now() FROM runs r
WHERE l.run_id = :run_id AND r.id = :run_id AND r.status = 'running' AND (:lane < 0 OR l.lane = :lane)
RETURNING l.lane, l.step
""")
_RECALL = sa.text("UPDATE run_batches SET lane = NULL WHERE run_id = :run_id AND stage <> 'over'")
_STEP = sa.text("""
UPDATE run_lanes l SET step = l.step + 1, sent_at = now() FROM runs r
WHERE l.run_id = :run_id AND l.lane = :lane AND l.step = :step AND r.id = l.run_id AND r.status = 'running'
""")
_LEFT_OPEN = sa.text("""
SELECT number, stage FROM run_batches WHERE run_id = :run_id AND lane = :lane AND stage <> 'over'
ORDER BY number LIMIT :limit
""")
# As a plain subquery it may be run once per row, with a limit for each: then one lane takes all there is.
_NEXT = sa.text("""
WITH n AS MATERIALIZED (
    SELECT number FROM run_batches WHERE run_id = :run_id AND lane IS NULL AND stage <> 'over'
    ORDER BY number LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE run_batches b SET lane = :lane FROM n
WHERE b.run_id = :run_id AND b.number = n.number RETURNING b.number, b.stage
""")
_ANY_OPEN = sa.text("SELECT EXISTS (SELECT FROM run_batches WHERE run_id = :run_id AND stage <> 'over')")
_IS_LONGER = sa.text("SELECT EXISTS (SELECT FROM run_batches WHERE run_id = :run_id OFFSET :size)")
# A lane is silent where nobody holds a lease on any of its batches, and it should do something: it has open batches, or
# there are some that no lane has taken; or nothing is open at all, and the first lane has not ended the run.
_SILENT = sa.text("""
SELECT l.run_id::text, l.lane FROM run_lanes l JOIN runs r ON r.id = l.run_id
WHERE r.status = 'running' AND l.sent_at < now() - make_interval(secs => :seconds)
  AND NOT EXISTS (SELECT FROM run_batches b WHERE b.run_id = l.run_id AND b.lane = l.lane AND b.stage <> 'over'
                  AND b.holder IS NOT NULL AND b.lease_until > now())
  AND (EXISTS (SELECT FROM run_batches b WHERE b.run_id = l.run_id AND b.stage <> 'over'
               AND (b.lane = l.lane OR b.lane IS NULL))
       OR l.lane = 0 AND NOT EXISTS (SELECT FROM run_batches b WHERE b.run_id = l.run_id AND b.stage <> 'over'))
""")


class Batches:
    """The batches of all runs, as the stages that work on them see them."""

    def __init__(self, engine: sa.Engine, *, lease_seconds: float) -> None:
        """Over an engine shared with the rest of the process. A lease that nobody renews ends after so long."""
        self._engine = engine
        self._lease_seconds = lease_seconds

    # ------------------------------------------------------------------ leases

    def claim(self, batch: Batch, stage: IngestStage, holder: str) -> Lease | None:
        """A lease on the batch for this stage; None where it is past it, or the run is over. ``holder`` is a name that
        nobody else ever uses. Raises Busy while somebody else holds a live lease.

        A holder whose lease ran out died: that is counted, for the item too that it had alone.
        """
        place = {"run_id": batch.run_id, "number": batch.number}
        with transaction(self._engine) as connection:
            row = connection.execute(_LOOK, {**place, "stage": stage}).mappings().first()
            if row is None:
                return None
            if row["held"] and row["seconds_left"] > 0:
                held = f"Another worker holds batch {batch.number} of run {batch.run_id}."
                raise Busy(held, detail={"retry_after": row["seconds_left"]})
            deaths = row["deaths"] + row["held"]
            if row["held"] and row["lease_item"] is not None:
                connection.execute(_COUNT_CRASH, {"run_id": batch.run_id, "item": row["lease_item"]})
            taken = {**place, "holder": holder, "seconds": self._lease_seconds, "deaths": deaths}
            fence = connection.execute(_TAKE, taken).scalar_one()
        bounds = {name: row[name] for name in ("first_item", "last_item")}
        return Lease(
            batch=batch, stage=stage, holder=holder, fence=fence, deaths=deaths, crash=row["crash"] or "", **bounds
        )

    def items(self, lease: Lease) -> list[RunItem]:
        """The items of the batch that are not over."""
        values = {"run_id": lease.batch.run_id, "first": lease.first_item, "last": lease.last_item}
        with statement(self._engine) as connection:
            return [_item(*row) for row in connection.execute(_ITEMS, values)]

    def renew(self, holders: Sequence[str]) -> None:
        """Let these leases live on; those that somebody else has taken since are left alone."""
        with statement(self._engine) as connection:
            connection.execute(_RENEW, {"holders": list(holders), "seconds": self._lease_seconds})

    def alone(self, lease: Lease, item: int) -> None:
        """Note that from now on only this item is worked on: should the worker die, it is the one to blame."""
        with statement(self._engine) as connection:
            connection.execute(_ALONE, {**_ours(lease), "item": item})

    def release(self, lease: Lease) -> None:
        """Give the lease back as it is: the stage ended in good order, but not done."""
        with statement(self._engine) as connection:
            connection.execute(_RELEASE, _ours(lease))

    def crashed(self, batch: Batch, cause: str) -> None:
        """Somebody saw the holder of this batch die: its lease ends now, and the cause is kept."""
        values = {"run_id": batch.run_id, "number": batch.number, "cause": cause}
        with statement(self._engine) as connection:
            connection.execute(_CRASHED, values)

    # ------------------------------------------------------------------ outcomes

    def record(self, lease: Lease, outcome: BatchOutcome, *, attempt: int = 1, next_stage: str | None = None) -> None:
        """Write what the stage made of some or, with ``next_stage``, of all items: the batch goes on to that one, or is
        over where no item is left. Raises Cancelled, and writes nothing, where the lease has passed to another.
        """
        with transaction(self._engine) as connection:
            if connection.execute(_LOCK, _ours(lease)).rowcount == 0:
                raise Cancelled("The lease on the batch has passed to another worker.")
            failed = self._write_items(connection, lease, outcome, attempt)
            counts = {"done": len(outcome.done), "unchanged": len(outcome.unchanged), "failed": failed}
            counted = {"chunks": outcome.chunks, "embedded": outcome.embedded}
            connection.execute(_RECORD, _ours(lease) | counts | counted)
            if next_stage is not None:
                connection.execute(_MOVE_ON, _ours(lease) | {"next": next_stage})

    def give_up(self, batch: Batch, stage: IngestStage, error: CeleriacError, *, attempt: int) -> None:
        """End a batch that is at this stage, its open items with one cause; but not where somebody is at work on it, or
        the run is over: it may be resumed.
        """
        place = {"run_id": batch.run_id, "number": batch.number}
        with transaction(self._engine) as connection:
            bounds = connection.execute(_ABANDONED, {**place, "stage": stage}).mappings().first()
            if bounds is None:
                return
            numbers = connection.execute(_OPEN_ITEMS, {"run_id": batch.run_id, **bounds}).scalars()
            errors = dict.fromkeys(numbers, error)
            failed = _fail(connection, batch.run_id, errors, stage=stage, attempt=attempt)
            connection.execute(_GIVE_UP, {**place, "failed": failed})

    def _write_items(self, connection: sa.Connection, lease: Lease, outcome: BatchOutcome, attempt: int) -> int:
        run_id = lease.batch.run_id
        if outcome.versions:
            columns = zip(*((number, *version) for number, version in outcome.versions.items()), strict=True)
            names = ("numbers", "documents", "generations")
            connection.execute(_VERSIONS, {"run_id": run_id, **dict(zip(names, map(list, columns), strict=True))})
        for status, numbers in (("unchanged", outcome.unchanged), ("done", outcome.done)):
            if numbers:
                connection.execute(_END, {"run_id": run_id, "status": status, "numbers": list(numbers)})
        if not outcome.failed:
            return 0
        return _fail(connection, run_id, outcome.failed, stage=lease.stage, attempt=attempt)

    # ------------------------------------------------------------------ waves

    def open_lanes(self, run_id: str, *, lanes: int, size: int) -> list[tuple[int, int]]:
        """Begin, or begin again, to send the run: at most so many lanes of waves of ``size`` batches. Returns
        (lane, step) of the first messages; those of earlier steps are void from now on.
        """
        with transaction(self._engine) as connection:
            connection.execute(_ADD_LANES, {"run_id": run_id, "lanes": lanes, "size": size})
            connection.execute(_RECALL, {"run_id": run_id})
            return _pairs(connection.execute(_BUMP, {"run_id": run_id, "lane": -1}))

    def resend(self, run_id: str, lane: int) -> int | None:
        """The step to go on with in a lane whose messages are lost; None: the run is over."""
        with statement(self._engine) as connection:
            found = _pairs(connection.execute(_BUMP, {"run_id": run_id, "lane": lane}))
        return found[0][1] if found else None

    def next_wave(self, run_id: str, lane: int, step: int, size: int) -> Wave | None:
        """What this lane sends after ``step``: its batches that were left open, then such as no lane has taken yet.
        None where the step is void: another message has done it, or the run is over.
        """
        place = {"run_id": run_id, "lane": lane}
        with transaction(self._engine) as connection:
            if connection.execute(_STEP, {**place, "step": step}).rowcount == 0:
                return None
            batches = _pairs(connection.execute(_LEFT_OPEN, {**place, "limit": size}))
            batches += _pairs(connection.execute(_NEXT, {**place, "limit": size - len(batches)}))
            last = not batches and not connection.execute(_ANY_OPEN, {"run_id": run_id}).scalar()
            bulk = connection.execute(_IS_LONGER, {"run_id": run_id, "size": size}).scalar_one()
        return Wave(batches=tuple(batches), last=last, bulk=bulk)

    def silent_lanes(self, seconds: float) -> list[tuple[str, int]]:
        """(run, lane) pairs that have work, were not heard of for so long, and where nobody holds a lease."""
        with statement(self._engine) as connection:
            return _pairs(connection.execute(_SILENT, {"seconds": seconds}))


def _fail(
    connection: sa.Connection, run_id: str, errors: Mapping[int, CeleriacError], *, stage: str, attempt: int
) -> int:
    rows = recordset({"number": number, "error": error.to_json()} for number, error in errors.items())
    items = {"run_id": run_id, "numbers": list(errors)}
    values = {**items, "rows": rows, "stage": stage, "attempt": attempt}
    connection.execute(_LOCK_DOCUMENTS, items)
    return int(connection.execute(_FAIL, values).scalar_one())


def _ours(lease: Lease) -> dict[str, Any]:
    return {
        "run_id": lease.batch.run_id,
        "number": lease.batch.number,
        "holder": lease.holder,
        "fence": lease.fence,
    }


def _item(number: int, key: str, source: Any, document_id: str | None, generation: int | None, crashes: int) -> RunItem:
    return RunItem(
        number=number,
        key=key,
        source=Source.decode(source),
        document_id=document_id,
        generation=generation,
        crashes=crashes,
    )


def _pairs(rows: Iterable[Any]) -> list[tuple[Any, Any]]:
    return sorted((first, second) for first, second in rows)
