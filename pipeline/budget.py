"""What a tenant may spend on one day, in money, in tokens, or in both. A day is one of UTC.

What was spent is counted in Redis as questions end, whichever way, and added up anew from their rows where Redis has
forgotten. What ingest spends is counted as well, but in Redis alone.
A call whose price is unknown costs no money here, but tokens all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from pipeline.errors import BudgetSpent

EVERYBODY = "*"
"""Whoever has no budget of their own has this one, each for themselves."""


class Spent(NamedTuple):
    """Money and tokens."""

    usd: float = 0.0
    tokens: int = 0


class SpendingCounter(Protocol):
    """Counts what a tenant spends in a day. Never raises: a question is answered where it can't be reached."""

    def spent(self, tenant: str, day: datetime) -> Spent | None:
        """So far; None where that is forgotten or can't be had."""

    def add(self, tenant: str, day: datetime, spent: Spent) -> bool:
        """Count more; False, without counting, where what came before is forgotten."""

    def remember(self, tenant: str, day: datetime, spent: Spent) -> None:
        """That at least so much was spent."""


class SpendingLedger(Protocol):
    """Where what was spent is on record."""

    def spent(self, tenant: str, day: datetime) -> Spent:
        """On questions that ended on that day."""


class Budget:
    """The budgets of all tenants."""

    def __init__(
        self,
        usd: Mapping[str, float],
        tokens: Mapping[str, int],
        ledger: SpendingLedger,
        counter: SpendingCounter | None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``usd`` and ``tokens`` are per day, by tenant or ``*``; without a counter all is read from the ledger."""
        self._usd = usd
        self._tokens = tokens
        self._ledger = ledger
        self._counter = counter
        self._clock = clock
        self._missed: dict[str, datetime] = {}
        """Tenants of whom something was not counted on that day."""

    def check(self, tenant: str) -> None:
        """Raise BudgetSpent where the tenant may spend no more today."""
        usd, tokens = _of(self._usd, tenant), _of(self._tokens, tenant)
        if usd is None and tokens is None:
            return
        day = self._today()
        spent = self._spent(tenant, day)
        if usd is not None and spent.usd >= usd:
            raise _error(tenant, day, f"{usd:,.2f} USD", "CELERIAC_BUDGET_USD")
        if tokens is not None and spent.tokens >= tokens:
            raise _error(tenant, day, f"{tokens:,} tokens", "CELERIAC_BUDGET_TOKENS")

    def spend(self, tenant: str, usd: float | None, tokens: int, *, on_record: bool = True) -> None:
        """Count what something cost. ``on_record``: the ledger knows of it already."""
        if self._counter is None or (_of(self._usd, tenant) is None and _of(self._tokens, tenant) is None):
            return
        day, spent = self._today(), Spent(usd or 0.0, tokens)
        if self._counter.add(tenant, day, spent):
            return
        self._missed[tenant] = day
        if not on_record:
            before = self._ledger.spent(tenant, day)
            self._counter.remember(tenant, day, Spent(before.usd + spent.usd, before.tokens + spent.tokens))

    def _spent(self, tenant: str, day: datetime) -> Spent:
        if self._counter is None:
            return self._ledger.spent(tenant, day)
        known = self._counter.spent(tenant, day)
        if known is not None and self._missed.get(tenant) != day:
            return known
        recorded = self._ledger.spent(tenant, day)
        self._counter.remember(tenant, day, recorded)
        if known is None:
            return recorded
        self._missed.pop(tenant, None)
        return Spent(max(known.usd, recorded.usd), max(known.tokens, recorded.tokens))

    def _today(self) -> datetime:
        return self._clock().replace(hour=0, minute=0, second=0, microsecond=0)


def _of(budgets: Mapping[str, float], tenant: str) -> float | None:
    return budgets.get(tenant, budgets.get(EVERYBODY))


def _error(tenant: str, day: datetime, amount: str, setting: str) -> BudgetSpent:
    opens = day + timedelta(days=1)
    return BudgetSpent(
        f"Tenant {tenant!r} has spent its {amount} of {day:%Y-%m-%d}.",
        f"Ask again from {opens:%Y-%m-%d %H:%M} UTC on, or raise {setting}.",
        {"opens_at": opens.timestamp()},
    )
