"""When a stage that failed is tried again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pipeline.errors import CeleriacError, Postponed, RateLimited, RequestRejected, TimedOut
from pipeline.settings import Settings
from pipeline.wiring import Parts

LATER, SOON, PAST = 100.0, 0.01, -5.0
"""Seconds from now."""


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    from tasks import runtime

    runtime.use(Parts(Settings(max_retries=2, retry_backoff=0.1)))
    yield
    runtime.forget()


def tried_again(error: CeleriacError, number: int, *, deadline: float = LATER, patience: float | None = None) -> bool:
    from tasks.base import StageTask

    now = time.time()
    patient_until = None if patience is None else now + patience
    return StageTask()._delay(error, number, now + deadline, patient_until) is not None


def test_what_can_not_help_is_not_done() -> None:
    assert not tried_again(RequestRejected("No."), 1)


def test_without_a_lesser_way_the_attempts_are_counted() -> None:
    assert [tried_again(TimedOut("Late."), number) for number in (1, 2, 3)] == [True, True, False]


def test_a_try_that_would_come_too_late_is_not_made() -> None:
    assert not tried_again(TimedOut("Late."), 1, deadline=SOON)


def test_with_a_lesser_way_they_end_with_the_patience() -> None:
    assert tried_again(TimedOut("Late."), 9, patience=LATER)
    assert not tried_again(TimedOut("Late."), 2, patience=PAST)


def test_a_first_try_that_took_all_the_patience_is_followed_by_another() -> None:
    assert tried_again(TimedOut("Late."), 1, patience=PAST)


@pytest.mark.parametrize("error", [RateLimited, Postponed])
def test_nobody_waits_longer_than_the_patience_for_a_service_that_asks_to_wait(error: type[CeleriacError]) -> None:
    assert not tried_again(error("Slow down.", "", {"retry_after": 30}), 1, patience=10.0)
    assert tried_again(error("Slow down.", "", {"retry_after": 3}), 1, patience=10.0)
