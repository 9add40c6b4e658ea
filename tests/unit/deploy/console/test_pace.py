"""Rates, times left, pauses."""

from __future__ import annotations

import pytest

from deploy.console.pace import FIRST_PAUSE, LONGEST_PAUSE, SETTLED, Pace, duration, pause, time_left


def paced(*seen: tuple[float, int], window: float = 30.0) -> Pace:
    pace = Pace(window)
    for at, over in seen:
        pace.saw(at, over)
    return pace


def test_at_the_start_no_rate_is_known() -> None:
    assert paced().rate is None
    assert paced((0, 0)).rate is None
    assert paced((0, 5), (60, 5)).rate is None
    assert paced((0, 0), (SETTLED - 0.1, 100)).rate is None


def test_the_rate_is_what_was_done_in_the_time_seen() -> None:
    assert paced((0, 0), (1, 10), (4, 40)).rate == 10


def test_what_was_over_before_the_first_look_is_not_counted() -> None:
    assert paced((100, 1000), (104, 1020)).rate == 5


def test_the_window_slides() -> None:
    steady = [(float(second), 10 * second) for second in range(100)]
    faster = [(100.0 + second, 1000 + 50 * second) for second in range(40)]
    assert paced(*steady).rate == pytest.approx(10)
    assert paced(*steady, *faster).rate == pytest.approx(50)


def test_between_two_batches_the_rate_falls_slowly() -> None:
    """Batches of 128 every 40 s, longer than the window."""
    pace = paced((0, 0), (40, 128), (80, 256))
    rates = []
    for second in range(81, 120):
        pace.saw(second, 256)
        rates.append(pace.rate or 0)
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(128 / 41)
    assert rates[-1] == pytest.approx(128 / 79)


def test_a_run_that_stands_still_has_no_speed_in_the_end() -> None:
    assert paced((0, 0), (10, 100), (100_000, 100)).rate == pytest.approx(0.001)


def test_it_keeps_no_more_than_the_window_needs() -> None:
    pace = paced(*((second / 4, second) for second in range(10_000)))
    assert len(pace._steps) <= 30 * 4 + 2


@pytest.mark.parametrize(
    ("waiting", "rate", "left"), [(100, 10.0, 10.0), (0, 10.0, 0.0), (5, None, None), (5, 0.0, None)]
)
def test_the_time_left(waiting: int, rate: float | None, left: float | None) -> None:
    assert time_left(waiting, rate) == left


def test_pauses_grow_from_the_first_to_the_longest() -> None:
    assert pause(0) == pause(10) == FIRST_PAUSE
    assert FIRST_PAUSE < pause(20) < LONGEST_PAUSE
    assert pause(40) == pause(86_400) == LONGEST_PAUSE


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (3 * 3600 + 12 * 60, "3 h 12 min"),
        (24 * 3600 - 1, "1 d 0 h"),
        (52 * 3600, "2 d 4 h"),
    ],
)
def test_times_are_said_as_people_do(seconds: float, said: str) -> None:
    assert duration(seconds) == said
