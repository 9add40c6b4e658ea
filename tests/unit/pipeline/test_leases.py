"""Leases live for as long as somebody works under them, whatever happens to a renewal."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from pipeline.errors import Unreachable
from pipeline.leases import LeaseKeeper

PATIENCE = 10.0


class Ledger:
    """Takes renewals, and tells those who wait for one."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self._changed = threading.Condition()
        self.calls: list[list[str]] = []

    def renew(self, holders: Sequence[str]) -> None:
        with self._changed:
            self.calls.append(list(holders))
            self._changed.notify_all()
        if self._failures:
            raise self._failures.pop(0)

    def wait_for(self, holders: list[str], times: int = 1) -> None:
        with self._changed:
            begin = len(self.calls)
            assert self._changed.wait_for(lambda: self.calls[begin:].count(holders) >= times, PATIENCE), self.calls


def test_all_leases_are_renewed_together_as_long_as_they_are_held() -> None:
    ledger = Ledger()
    keeper = LeaseKeeper(ledger.renew, every=0.01)
    with keeper.keeping("a"):
        ledger.wait_for(["a"], times=3)
        with keeper.keeping("b"):
            ledger.wait_for(["a", "b"], times=2)
        ledger.wait_for(["a"])
    assert [] not in ledger.calls


def test_nothing_is_renewed_while_nothing_is_held() -> None:
    ledger = Ledger()
    keeper = LeaseKeeper(ledger.renew, every=0.01)
    with keeper.keeping("a"):
        ledger.wait_for(["a"])
    with keeper.keeping("b"):
        ledger.wait_for(["b"], times=2)
    threads = [thread for thread in threading.enumerate() if thread.name == "leases"]
    seen = len(ledger.calls)
    assert not threading.Event().wait(0.1)
    assert len(ledger.calls) <= seen + 1, "one may have been on its way"
    assert all(thread.daemon for thread in threads), "no process waits for it at its end"


def test_a_lease_is_let_go_also_where_the_work_fails() -> None:
    ledger = Ledger()
    keeper = LeaseKeeper(ledger.renew, every=0.01)
    with pytest.raises(ValueError, match="broken"), keeper.keeping("a"):
        raise ValueError("broken")
    with keeper.keeping("b"):
        ledger.wait_for(["b"], times=2)


@pytest.mark.parametrize("error", [Unreachable("Postgres is down."), RuntimeError("a defect")])
def test_a_renewal_that_fails_is_not_the_last_one(error: Exception) -> None:
    ledger = Ledger(error, error)
    keeper = LeaseKeeper(ledger.renew, every=0.01)
    with keeper.keeping("a"):
        ledger.wait_for(["a"], times=4)
