"""What became of the questions of the last minutes, added up from their rows."""

from __future__ import annotations

import sqlalchemy as sa

from pipeline.adapters.postgres.engine import statement
from pipeline.types import RecentQuestions

# One tenant after the other, since the index on times begins with it: no other is needed, which each question would
# have to be entered in.
_RECENT = sa.text("""
WITH RECURSIVE tenant AS (
    SELECT min(tenant) AS name FROM questions
    UNION ALL
    SELECT (SELECT min(tenant) FROM questions WHERE tenant > t.name) FROM tenant t WHERE t.name IS NOT NULL
), recent AS MATERIALIZED (
    SELECT q.status, q.degraded, q.error ->> 'code' AS code,
        extract(epoch FROM q.finished_at - q.submitted_at)::float8 AS seconds,
        coalesce(q.input_tokens, 0) + coalesce(q.output_tokens, 0) + coalesce(q.embedding_tokens, 0) AS tokens,
        coalesce(q.cost_usd, 0) AS cost_usd
    FROM tenant t CROSS JOIN LATERAL (
        SELECT * FROM questions WHERE tenant = t.name AND submitted_at >= now() - make_interval(secs => :seconds)
        ORDER BY submitted_at DESC LIMIT :most
    ) q
), statuses AS (
    SELECT jsonb_object_agg(status, n) AS counted FROM (SELECT status, count(*) AS n FROM recent GROUP BY status) s
), degradations AS (
    SELECT jsonb_object_agg(mode, n) AS counted FROM (
        SELECT mode, count(*) AS n
        FROM recent r, LATERAL (SELECT DISTINCT d ->> 'mode' AS mode FROM jsonb_array_elements(r.degraded) d) m
        WHERE jsonb_typeof(r.degraded) = 'array' GROUP BY mode) d
), failures AS (
    SELECT jsonb_object_agg(code, n) AS counted FROM (
        SELECT code, count(*) AS n FROM recent WHERE status = 'failed' GROUP BY code) f
)
SELECT (SELECT counted FROM statuses) AS statuses, (SELECT counted FROM degradations) AS degraded,
    (SELECT counted FROM failures) AS failed, count(*) AS asked,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE status = 'done') AS p50_seconds,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE status = 'done') AS p95_seconds,
    coalesce(sum(tokens), 0)::bigint AS tokens, coalesce(sum(cost_usd), 0)::float8 AS cost_usd
FROM recent
""")
MOST = 50_000
"""Newest questions of a tenant that are looked at: ``status`` must be there at once."""


class Recent:
    """The questions' ledger as ``status`` shows it."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    def questions(self, seconds: float) -> RecentQuestions:
        """Those submitted in so many seconds before now, of all tenants."""
        with statement(self._engine) as connection:
            row = connection.execute(_RECENT, {"seconds": seconds, "most": MOST}).mappings().one()
        statuses = row["statuses"] or {}
        return RecentQuestions(
            seconds=seconds,
            asked=row["asked"],
            done=statuses.get("done", 0),
            open=statuses.get("queued", 0),
            cancelled=statuses.get("cancelled", 0),
            failed=row["failed"] or {},
            degraded=row["degraded"] or {},
            p50_seconds=row["p50_seconds"],
            p95_seconds=row["p95_seconds"],
            tokens=row["tokens"],
            cost_usd=row["cost_usd"],
        )
