"""Bars on one axis of time."""

from __future__ import annotations

import pytest

from deploy.console.waterfall import RUNNING, WAITING, Bar, bars, drawn
from pipeline.types import StageTiming


def timing(waited: float, ran: float) -> StageTiming:
    return StageTiming(stage="s", queue_ms=waited, run_ms=ran)


def test_attempts_follow_one_another() -> None:
    found = bars([timing(1, 2), timing(3, 4), timing(0, 5)], 10.0)
    assert [(bar.start_ms, bar.end_ms) for bar in found] == [(10, 13), (13, 20), (20, 25)]
    assert bars([]) == []


@pytest.mark.parametrize(
    ("start", "waited", "ran", "shown"),
    [
        (0, 20, 30, "░░███"),
        (50, 20, 30, "     ░░███"),
        (0, 100, 0, "░░░░░░░░░█"),
        (0, 0, 100, "██████████"),
        (95, 0, 0.001, "         █"),
        (100, 0, 0, "         █"),
        (40, 0.1, 0.1, "    █"),
    ],
)
def test_a_bar_waits_then_runs_at_its_place(start: float, waited: float, ran: float, shown: str) -> None:
    assert (WAITING, RUNNING) == ("░", "█")
    assert drawn(Bar(timing(waited, ran), start), 100.0, 10) == shown


@pytest.mark.parametrize("total", [0.0, 50.0])
def test_a_bar_stays_on_an_axis_that_is_too_short(total: float) -> None:
    assert len(drawn(Bar(timing(30, 40), 20), total, 10)) <= 10
