from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from pipeline import governor
from pipeline.breaker import Breaker
from pipeline.errors import (
    Postponed,
    RateLimited,
    RequestRejected,
    ServerFault,
    TimedOut,
    Unavailable,
    Unreachable,
)
from pipeline.gate import FAULTS_TO_CLOSE, POLL_SECONDS, SHORTEST_CLOSURE, LocalGateStore
from pipeline.governor import (
    LOOK_EVERY,
    WAIT_IN_PLACE,
    Admission,
    Allowance,
    Lane,
    Unlimited,
    Upstream,
    allowances,
    in_lane,
)
from pipeline.pacing import WAIT_AT_GATE, Pace
from pipeline.silence import ENOUGH, Silence, hurrying


@pytest.fixture
def upstream() -> Upstream:
    """Known to nobody else, without limits."""
    return Upstream.alone("service")


def fail(upstream: Upstream, error: BaseException) -> None:
    with pytest.raises(type(error)), upstream.call():
        raise error


def refusal(seconds: float) -> RateLimited:
    return RateLimited("service answered 429: Slow down.", "", {"retry_after": seconds})


def state(upstream: Upstream) -> str:
    gate, now = upstream.breaker.gate(0.0)
    return gate.state(now)


def take_down(upstream: Upstream) -> None:
    for _ in range(FAULTS_TO_CLOSE):
        fail(upstream, ServerFault("service answered 500: It broke."))


class TestFaults:
    @pytest.mark.parametrize("error", [ServerFault("x"), Unreachable("x")])
    def test_many_in_a_row_and_it_is_not_called_any_more(self, upstream: Upstream, error: Exception) -> None:
        for _ in range(FAULTS_TO_CLOSE):
            fail(upstream, error)
        begun = time.monotonic()
        with pytest.raises(Unavailable) as caught, upstream.call():
            pytest.fail("It was called.")
        assert time.monotonic() - begun < 15
        assert caught.value.retry_after == pytest.approx(SHORTEST_CLOSURE, abs=0.1)
        assert (caught.value.retryable, caught.value.attempted) == (True, False)

    def test_the_error_says_what_was_wrong(self, upstream: Upstream) -> None:
        take_down(upstream)
        with pytest.raises(Unavailable, match=r"not called now\. service answered 500: It broke\."), upstream.call():
            pass

    @pytest.mark.parametrize("error", [RequestRejected("x"), KeyError("x"), KeyboardInterrupt()])
    def test_what_is_not_the_services_fault_is_none(self, upstream: Upstream, error: BaseException) -> None:
        for _ in range(2 * FAULTS_TO_CLOSE):
            fail(upstream, error)
        assert state(upstream) == "closed"

    def test_a_call_that_had_hardly_any_time_says_nothing_about_the_service(self, upstream: Upstream) -> None:
        for _ in range(2 * FAULTS_TO_CLOSE):
            fail(upstream, TimedOut("No answer."))
        assert state(upstream) == "closed"

    @pytest.mark.parametrize(("detail", "after"), [({"early": True}, "closed"), ({}, "open")])
    def test_a_call_that_was_given_up_early_says_nothing_about_the_service_and_any_other_does(
        self, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, detail: dict[str, object], after: str
    ) -> None:
        monkeypatch.setattr("pipeline.governor.SHORT_CALL", 0.0)
        for _ in range(FAULTS_TO_CLOSE):
            fail(upstream, TimedOut("service said nothing for 2 s.", "", detail))
        assert state(upstream) == after

    def test_a_probe_is_waited_for(self, upstream: Upstream) -> None:
        """It is what tells whether the service is back, and that may be slow at first."""
        silence = Silence(15.0, 1.0)
        for _ in range(ENOUGH):
            silence.heard(0.0)
        take_down(upstream)
        time.sleep(SHORTEST_CLOSURE)
        with hurrying(60), upstream.call() as probe:
            assert probe.probe
            assert silence.bound() == 15.0
        with hurrying(60), upstream.call():
            assert silence.bound() == 1.0
        assert silence.bound() == 15.0

    def test_a_gateway_that_answers_504_at_once_is_one_that_fails(self, upstream: Upstream) -> None:
        for _ in range(FAULTS_TO_CLOSE):
            fail(upstream, TimedOut("service answered 504: No upstream.", "", {"status": 504}))
        assert state(upstream) == "open"

    def test_when_it_is_time_one_call_tries_and_the_others_go_on_when_it_works(self, upstream: Upstream) -> None:
        take_down(upstream)
        time.sleep(SHORTEST_CLOSURE)
        with upstream.call() as probe:
            with pytest.raises(Unavailable), upstream.call():
                pass
            probe.answered()  # its reply has begun
            with upstream.call() as other:
                assert not other.probe
        assert state(upstream) == "closed"

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), TimedOut("x"), Postponed("x")])
    def test_a_probe_that_says_nothing_leaves_its_turn_to_the_next(
        self, upstream: Upstream, error: BaseException
    ) -> None:
        take_down(upstream)
        time.sleep(SHORTEST_CLOSURE)
        fail(upstream, error)
        with upstream.call() as call:
            assert call.probe


class TestRefusals:
    def test_after_one_nobody_calls_for_as_long_as_it_asks(self, upstream: Upstream) -> None:
        fail(upstream, refusal(30))
        begun = time.monotonic()
        with pytest.raises(Postponed) as caught, upstream.call():
            pytest.fail("It was called.")
        assert time.monotonic() - begun < 15
        assert caught.value.retry_after == pytest.approx(30, abs=1)
        assert "service answered 429: Slow down." in caught.value.message

    def test_a_short_wait_is_waited_for_in_its_place(self, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(governor, "WAIT_IN_PLACE", 20.0)  # or a busy machine may have waited for too long
        fail(upstream, refusal(SHORTEST_CLOSURE))
        with upstream.call() as call:
            assert call.probe

    def test_who_waits_for_a_probe_that_takes_long_comes_again(self, upstream: Upstream) -> None:
        fail(upstream, refusal(0.0))
        time.sleep(SHORTEST_CLOSURE)
        with upstream.call():
            begun = time.monotonic()
            with pytest.raises(Postponed), upstream.call():
                pass
            assert time.monotonic() - begun < 20 * WAIT_IN_PLACE  # the probe has no end


class TestHeaders:
    @pytest.mark.parametrize(
        ("reset", "seconds"), [("12ms", 0.012), ("1s", 1.0), ("1m0.5s", 60.5), ("0", 0.0), ("7.5", 7.5)]
    )
    def test_what_they_say_is_read(self, reset: str, seconds: float) -> None:
        assert allowances(told("1000", "200", reset)) == {"tokens": Allowance(1000, 200, seconds)}

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"x-ratelimit-limit-tokens": "10"},
            {"x-ratelimit-limit-tokens": "many", "x-ratelimit-remaining-tokens": "few"},
            {"x-ratelimit-limit-tokens": "0", "x-ratelimit-remaining-tokens": "0"},
            {"x-ratelimit-limit-project-tokens": "10", "x-ratelimit-remaining-project-tokens": "1"},
        ],
        ids=["none", "half", "no numbers", "nothing allowed", "another limit"],
    )
    def test_what_can_not_be_read_is_left_out(self, headers: Mapping[str, str]) -> None:
        assert allowances(headers) == {}

    def test_a_limit_per_day_is_not_taken_for_one_per_minute(self) -> None:
        """After one request of 10,000 a day it takes 8.64 s until that one is back."""
        assert allowances(told("10000", "9999", "8.64s")) == {}
        assert allowances(told("10000", "9999", "6ms"))


def told(limit: str, remaining: str, reset: str) -> dict[str, str]:
    names = ("X-RateLimit-Limit-Tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")
    return dict(zip(names, (limit, remaining, reset), strict=True))


# --------------------------------------------------------------------------- lanes


class Noting(Unlimited):
    """Notes who was let in."""

    def __init__(self) -> None:
        self.lanes: list[Lane] = []

    def admit(self, lane: Lane, tokens: int, *, wait: float, probe: bool) -> Admission:
        self.lanes.append(lane)
        return super().admit(lane, tokens, wait=wait, probe=probe)


class Moved(Unlimited):
    """Takes the gate for closed, whatever this process reads there."""

    def __init__(self) -> None:
        self.asked = 0

    def admit(self, lane: Lane, tokens: int, *, wait: float, probe: bool) -> Admission:
        self.asked += 1
        return Admission(moved=True)


def test_where_the_limiter_and_this_process_read_a_gate_differently_the_call_comes_again() -> None:
    moved = Moved()
    upstream = Upstream("service", Breaker("service", LocalGateStore()), moved)
    begun = time.monotonic()
    with pytest.raises(Postponed), upstream.call():
        pytest.fail("It was called.")
    assert time.monotonic() - begun < 20 * WAIT_IN_PLACE
    assert moved.asked <= 1 + WAIT_IN_PLACE / LOOK_EVERY


def test_and_so_does_bulk_work() -> None:
    moved = Moved()
    with pytest.raises(Postponed), Pace("service", LocalGateStore(), most=1, limiter=moved).permit():
        pytest.fail("It was called.")
    assert moved.asked <= 1 + WAIT_AT_GATE / POLL_SECONDS


def test_a_call_is_in_the_lane_of_who_makes_it() -> None:
    noting = Noting()
    upstream = Upstream("service", Breaker("service", LocalGateStore()), noting)
    with upstream.call():
        pass
    with in_lane("bulk"), upstream.call():
        pass
    with pytest.raises(RuntimeError), in_lane("bulk"):
        raise RuntimeError
    with upstream.call():
        pass
    assert noting.lanes == ["interactive", "bulk", "interactive"]
