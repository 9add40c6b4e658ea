from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest

from pipeline.silence import ENOUGH, WINDOW, Silence, Silences, Waiting, hurrying


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: found.now)
    return found


def heard(silence: Silence, *seconds: float) -> Silence:
    for each in seconds:
        silence.heard(each)
    return silence


def early(silence: Silence) -> float:
    with hurrying(60):
        return silence.bound()


def test_before_enough_was_seen_the_limit_holds() -> None:
    silence = heard(Silence(15.0, 0.5), *[1.0] * (ENOUGH - 1))
    assert early(silence) == 15.0
    assert early(heard(silence, 1.0)) == 2.0


def test_it_is_for_those_who_would_try_again() -> None:
    silence = heard(Silence(15.0, 0.5), *[1.0] * ENOUGH)
    assert silence.bound() == 15.0
    with hurrying(60):
        with hurrying(None):
            assert silence.bound() == 15.0
        assert silence.bound() == 2.0


@pytest.mark.parametrize(("usual", "bound"), [(0.1, 0.5), (1.0, 2.0), (10.0, 15.0)])
def test_it_is_twice_the_usual_within_its_bounds(usual: float, bound: float) -> None:
    assert early(heard(Silence(15.0, 0.5), *[usual] * ENOUGH)) == bound


@pytest.mark.parametrize(("long_ones", "bound"), [(2, 2.0), (3, 14.0)])
def test_two_calls_of_many_that_took_long_are_exceptions_and_three_are_not(long_ones: int, bound: float) -> None:
    assert early(heard(Silence(15.0, 0.5), *[1.0] * 100, *[7.0] * long_ones)) == bound


def test_a_service_that_has_become_slower_is_waited_for_after_three_calls() -> None:
    silence = heard(Silence(15.0, 0.5), *[0.3] * WINDOW)
    bounds = [early(heard(silence, 3.0)) for _ in range(3)]
    assert bounds == [0.6, 0.6, 6.0]


def test_one_that_has_become_faster_is_known_when_the_slow_calls_are_forgotten() -> None:
    silence = heard(Silence(15.0, 0.5), *[3.0] * WINDOW)
    assert early(heard(silence, *[0.3] * 100)) == 6.0
    assert early(heard(silence, *[0.3] * WINDOW)) == 0.6


def test_one_call_in_ten_may_be_given_up_and_ten_at_once() -> None:
    silence = Silence(15.0, 0.5)
    assert not silence.spend()
    heard(silence, *[1.0] * 21)
    assert [silence.spend() for _ in range(3)] == [True, True, False]
    heard(silence, *[1.0] * 1000)
    assert sum(silence.spend() for _ in range(50)) == 10


def waiting_for(silence: Silence, left: float = 60.0) -> Waiting:
    with hurrying(left):
        return Waiting(silence)


def test_a_call_that_may_not_be_given_up_is_waited_for_to_the_limit(clock: Clock) -> None:
    silence = heard(Silence(15.0, 1.0), *[0.0] * ENOUGH)
    first, second = waiting_for(silence), waiting_for(silence)
    with first.once(), second.once():
        clock.now += 0.75
        assert first.look_in() == 0.25
        assert not first.is_overdue
        clock.now += 0.25
        assert first.is_overdue
        assert first.give_up()
        assert not second.give_up()  # so few calls have earned one
        assert not second.is_overdue
        assert second.look_in() == math.inf
    assert (first.given_up, second.given_up) == (True, False)


@pytest.mark.parametrize(("left", "expected"), [(4.1, True), (3.9, False)])
def test_it_is_given_up_where_there_is_time_for_another_one_like_it(
    clock: Clock, left: float, *, expected: bool
) -> None:
    """One second of answer, one of silence: the next one would be given as much, and as long a silence."""
    waiting = waiting_for(heard(Silence(15.0, 1.0), *[0.0] * ENOUGH), left + 1.0)
    clock.now += 1.0
    with waiting.once():
        clock.now += 1.0
        assert waiting.is_overdue
        assert waiting.give_up() == expected


def test_the_time_to_connect_is_not_the_models(clock: Clock) -> None:
    silence = Silence(15.0, 0.1)
    for _ in range(ENOUGH):
        waiting = Waiting(silence)
        with waiting.once():
            clock.now += 5.0
            waiting.connected()
            clock.now += 0.5
        waiting.succeeded()
    late = waiting_for(silence)
    assert late.bound == 1.0
    with late.once():
        clock.now += 5.0
        late.connected()
        assert not late.is_overdue
        assert late.look_in() == 1.0


def test_who_does_something_else_is_not_kept_waiting(clock: Clock) -> None:
    waiting = waiting_for(heard(Silence(15.0, 1.0), *[0.0] * ENOUGH))
    for _ in waiting.over(iter("ab")):
        clock.now += 2.0
        assert not waiting.is_overdue
        assert 0 < waiting.look_in() < 1


def test_a_least_above_the_limit_means_that_nothing_is_learned() -> None:
    silence = heard(Silence(15.0, 60.0), *[0.1] * ENOUGH)
    assert early(silence) == 15.0


def test_of_one_call_the_longest_silence_counts_and_not_the_pauses_of_who_reads_it(clock: Clock) -> None:
    def pieces() -> Iterator[str]:
        for seconds in (0.25, 0.75, 0.5):
            clock.now += seconds
            yield "piece"

    silence = Silence(15.0, 0.01)
    for _ in range(ENOUGH):
        waiting = Waiting(silence)
        with waiting.once():
            clock.now += 0.5
        for _ in waiting.over(pieces()):
            clock.now += 3.0
        waiting.succeeded()
    assert waiting_for(silence).bound == 1.5


def test_models_are_known_apart() -> None:
    silences = Silences(15.0, 0.1)
    for _ in range(ENOUGH):
        silences.waiting("fast", None).succeeded()
    with hurrying(60):
        assert silences.waiting("fast", None).bound == 0.1
        assert silences.waiting("fast", "high").bound == 15.0


def test_without_a_limit_nothing_is_given_up_before_something_is_known() -> None:
    with hurrying(60):
        waiting = Silences().waiting("model")
    assert waiting.bound == waiting.limit == math.inf
    with waiting.once():
        assert waiting.look_in() == math.inf
        assert not waiting.is_overdue
