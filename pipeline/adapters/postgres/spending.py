"""What tenants have spent, added up from the rows of their questions."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from pipeline.adapters.postgres.engine import statement
from pipeline.budget import Spent

# Who is answered on a day asked at most an hour before (the longest time a question may have): the index is by that.
_SPENT = sa.text("""
SELECT coalesce(sum(cost_usd), 0)::float8,
    coalesce(sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0) + coalesce(embedding_tokens, 0)), 0)::bigint
FROM questions
WHERE tenant = :tenant AND submitted_at >= CAST(:day AS timestamptz) - interval '2 hours'
    AND finished_at >= :day AND finished_at < CAST(:day AS timestamptz) + interval '1 day'
""")


class Spending:
    """The questions' ledger as seen by budgets."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    def spent(self, tenant: str, day: datetime) -> Spent:
        """See :class:`pipeline.budget.SpendingLedger`."""
        with statement(self._engine) as connection:
            usd, tokens = connection.execute(_SPENT, {"tenant": tenant, "day": day}).one()
        return Spent(float(usd), int(tokens))
