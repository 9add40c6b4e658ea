from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import pacing
from pipeline.breaker import Breaker
from pipeline.errors import CeleriacError, Postponed, RateLimited, RequestRejected, ServerFault, TimedOut
from pipeline.gate import LocalGateStore
from pipeline.governor import Unlimited, Upstream
from pipeline.pacing import FIRST_WINDOW, SMALLEST_SHARE, Pace, Window


@pytest.fixture
def pace() -> Pace:
    """Unproven."""
    return Pace("service", LocalGateStore(), most=8)


@pytest.fixture
def proven(pace: Pace) -> Pace:
    """Its probe has worked."""
    with pace.permit() as permit:
        assert permit.probe
    return pace


def refusal(seconds: float) -> RateLimited:
    return RateLimited("Slow down.", "", {"retry_after": seconds})


def fail(pace: Pace, error: Exception) -> None:
    with pytest.raises(type(error)), pace.permit():
        raise error


class TestWindow:
    def test_it_doubles_with_each_round_of_successes_up_to_its_bound(self) -> None:
        window, sizes = Window(20), []
        for _ in range(5):
            sizes.append(window.size)
            for _ in range(window.size):
                window.worked()
        assert sizes == [FIRST_WINDOW, 4, 8, 16, 20]

    def test_it_is_halved_once_for_all_that_were_under_way_together(self) -> None:
        window = Window(20)
        for _ in range(14):
            window.worked()
        rounds = [window.take(0) for _ in range(4)]
        for begun_in in rounds:
            assert begun_in is not None
            window.overloaded(begun_in)
        assert window.size == 8

    def test_it_never_shuts_for_good(self) -> None:
        window = Window(4)
        for _ in range(50):
            begun_in = window.take(0)
            assert begun_in is not None
            window.overloaded(begun_in)
            window.give_back()

    def test_no_more_places_are_taken_than_there_are(self) -> None:
        window = Window(8)
        assert [window.take(0) is None for _ in range(3)] == [False, False, True]

    def test_who_waits_gets_the_place_that_comes_free(self) -> None:
        window = Window(1)
        window.take(0)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(window.take, 10)
            window.give_back()
            assert waiting.result(timeout=5) is not None

    @pytest.mark.parametrize(("every", "small"), [(50, False), (8, True)], ids=["1 in 50", "1 in 8"])
    def test_requests_get_small_only_where_many_fail(self, every: int, small: bool) -> None:
        window = Window(8)
        shares = []
        for number in range(1, 401):
            window.failed() if number % every == 0 else window.worked()
            shares.append(window.share)
        average = sum(shares[200:]) / 200
        assert (average < 2 * SMALLEST_SHARE) is small
        assert (average > 0.7) is not small


class TestPermit:
    def test_the_first_request_holds_one_text_and_the_next_ones_are_full(self, pace: Pace) -> None:
        with pace.permit() as permit:
            assert permit.texts(256) == 1
        with pace.permit() as permit:
            assert permit.texts(256) == 256

    def test_after_a_refusal_all_wait_as_long_as_it_asks_and_one_probes(self, proven: Pace) -> None:
        fail(proven, refusal(0.3))
        begun = time.monotonic()
        with proven.permit() as permit:
            assert permit.probe
        assert 0.2 < time.monotonic() - begun < 2

    def test_a_long_wait_is_not_waited_for_in_a_worker(self, proven: Pace) -> None:
        fail(proven, refusal(30))
        begun = time.monotonic()
        with pytest.raises(Postponed) as caught, proven.permit():
            pass
        assert time.monotonic() - begun < 1
        assert caught.value.retry_after == pytest.approx(30, abs=1)
        assert not caught.value.attempted

    def test_while_one_probes_the_others_wait_for_what_it_finds(self, pace: Pace) -> None:
        probing, go_on = threading.Event(), threading.Event()

        def probe() -> None:
            with pace.permit():
                probing.set()
                go_on.wait(5)

        def follow() -> bool:
            with pace.permit() as permit:
                return permit.probe

        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(probe)
            assert probing.wait(5)
            second = pool.submit(follow)
            go_on.set()
            assert second.result(timeout=5) is False
            first.result()

    def test_a_probe_that_was_not_used_leaves_its_turn_to_the_next(self, pace: Pace) -> None:
        with pace.permit() as permit:
            permit.unused = True
        with pace.permit() as permit:
            assert permit.probe

    @pytest.mark.parametrize(
        "end", [lambda: refusal(0), lambda: ServerFault("x"), lambda: RequestRejected("x"), KeyError, KeyboardInterrupt]
    )
    def test_however_a_request_ends_its_place_comes_free(
        self, proven: Pace, end: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pacing, "WAIT_FOR_PLACE", 0.0)
        for _ in range(4):
            error = end()
            with pytest.raises(type(error)), proven.permit():
                raise error

    def test_a_fault_makes_the_next_requests_small(self, proven: Pace) -> None:
        fail(proven, ServerFault("It broke."))
        with proven.permit() as permit:
            assert permit.texts(256) == 64

    def test_after_a_closure_the_requests_of_all_processes_start_small(self) -> None:
        store = LocalGateStore()
        one, other = Pace("service", store, most=8), Pace("service", store, most=8)
        with one.permit():
            pass
        fail(one, refusal(0.01))
        with one.permit() as permit:
            assert permit.probe
        with other.permit() as permit:
            assert permit.texts(256) == 256 * SMALLEST_SHARE

    def test_one_of_its_requests_that_fails_stops_no_question(self) -> None:
        store = LocalGateStore()
        people = Upstream("service", Breaker("service", store), Unlimited())
        with people.call():
            pass
        bulk = Pace("service", store, most=8)
        fail(bulk, ServerFault("It broke."))
        with people.call(), bulk.permit() as permit:
            assert permit.texts(256) == 1

    @pytest.mark.parametrize("error", [TimedOut("No answer."), refusal(0.01)], ids=["timeout", "refusal"])
    def test_an_overloaded_service_gets_fewer_requests_at_once(self, proven: Pace, error: CeleriacError) -> None:
        before = proven._window.size
        fail(proven, error)
        assert proven._window.size < before

    def test_a_request_that_is_itself_at_fault_says_that_the_service_answers(self, pace: Pace) -> None:
        fail(pace, RequestRejected("No such model."))
        with pace.permit() as permit:
            assert not permit.probe

    def test_where_no_place_comes_free_the_work_is_postponed(
        self, proven: Pace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pacing, "WAIT_FOR_PLACE", 0.05)
        with proven.permit(), proven.permit(), proven.permit(), pytest.raises(Postponed), proven.permit():
            pass
