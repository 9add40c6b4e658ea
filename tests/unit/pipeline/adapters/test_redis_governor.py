"""Limits shared through a real Redis. Rates are low and bursts are long, so that little comes in during a test."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from deploy.local.redis import free_port
from pipeline.adapters.redis_board import Board
from pipeline.adapters.redis_governor import BURST_SECONDS, PATIENCE, RedisLimiter, bucket_key, learned_key
from pipeline.adapters.redis_governor_report import Reported, report
from pipeline.adapters.redis_pace import RedisGateStore
from pipeline.adapters.redis_stream import make_client
from pipeline.breaker import Breaker
from pipeline.errors import Postponed, RateLimited, ServerFault
from pipeline.gate import SHORTEST_CLOSURE
from pipeline.governor import Admission, Allowance, Lane, Limit, Upstream, UpstreamReport

SHARE = 0.3
NAME = "service:m"
Make = Callable[..., Upstream]


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with make_client(redis_url, connections=50, connect_timeout=5) as client:
        yield client
        client.connection_pool.disconnect()


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def upstream(client: redis.Redis, namespace: str) -> Make:
    """Makes upstreams as so many processes have them, of requests and tokens per minute."""

    def make(requests: float | None = None, tokens: float | None = None, burst: float = 10.0) -> Upstream:
        board = Board(client, namespace=namespace)
        store = RedisGateStore(client, namespace=namespace, upstream="service", model="m", board=board)
        limiter = RedisLimiter(board, NAME, store.key, limit=Limit(requests, tokens), share=SHARE, burst=burst)
        return Upstream("service", Breaker("service", store), limiter)

    return make


def admitted(one: Upstream, lane: Lane = "interactive", tokens: int = 0, wait: float = 0.0) -> Admission:
    return one.limiter.admit(lane, tokens, wait=wait, probe=False)


def burst(one: Upstream, lane: Lane = "interactive", tokens: int = 0, wait: float = 0.0) -> int:
    """How many are let through at once."""
    count = 0
    while not (found := admitted(one, lane, tokens, wait)).later and not found.moved:
        count += 1
    return count


def commands(client: redis.Redis) -> int:
    return int(client.info("stats")["total_commands_processed"])  # type: ignore[index]


def transactions(client: redis.Redis) -> int:
    return int(client.info("commandstats").get("cmdstat_exec", {}).get("calls", 0))  # type: ignore[union-attr]


def test_a_bucket_full_may_come_at_once_and_then_as_many_as_the_limit_says(upstream: Make) -> None:
    one, begun = upstream(120), time.monotonic()
    first, took = burst(one), time.monotonic() - begun
    time.sleep(1.0)
    both, elapsed = first + burst(one), time.monotonic() - begun
    assert first == pytest.approx(20 + 2 * took, abs=1.5)
    assert both == pytest.approx(20 + 2 * elapsed, abs=1.5)


def test_all_processes_take_from_one_bucket(upstream: Make) -> None:
    one, other = upstream(60), upstream(60)
    assert burst(one) == pytest.approx(10, abs=1)
    assert burst(other) <= 1


def test_of_many_at_once_no_more_get_in_than_there_are_places(upstream: Make) -> None:
    crew, together = [upstream(6) for _ in range(8)], threading.Barrier(8)

    def enter(one: Upstream) -> bool:
        together.wait(5)
        return not admitted(one).later

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(enter, crew)) == 1


def test_who_waits_has_a_place_of_their_own_and_needs_no_second_round_trip(upstream: Make) -> None:
    one = upstream(60)
    burst(one)
    waits = [admitted(one, wait=30).wait for _ in range(4)]
    assert waits == sorted(waits)
    assert waits[3] - waits[0] == pytest.approx(3, abs=0.5)


def test_who_would_wait_for_longer_is_told_when_to_come_each_after_the_other(upstream: Make) -> None:
    one = upstream(60)
    burst(one, wait=0.5)
    laters = [admitted(one, wait=0.5).later for _ in range(10)]
    assert laters[9] - laters[0] == pytest.approx(9, abs=1)


def test_nobody_waits_for_who_was_told_to_come_again_and_does_not(upstream: Make) -> None:
    one = upstream(600, burst=BURST_SECONDS)
    burst(one)
    assert [admitted(one).later for _ in range(30)][-1] > 2
    time.sleep(BURST_SECONDS)  # the bucket is full
    burst(one)
    assert admitted(one).later < 0.5


def test_nor_for_who_would_come_later_than_anybody_waits(upstream: Make) -> None:
    one = upstream(60)
    burst(one)
    laters = [admitted(one).later for _ in range(40)]
    assert max(laters) < PATIENCE + 1.5
    time.sleep(2)
    assert admitted(one).later < max(laters) - 0.5


def test_after_the_clock_of_redis_was_set_back_it_goes_on(upstream: Make, client: redis.Redis, namespace: str) -> None:
    one, key = upstream(600, burst=1.0), bucket_key(namespace, NAME)
    burst(one)
    admitted(one)
    for name in ("at", "later"):
        client.hset(key, name, str(float(client.hget(key, name)) + 3600))  # type: ignore[arg-type]
    assert admitted(one).later < 1
    time.sleep(0.3)
    assert not admitted(one).later


def test_tokens_are_limited_as_requests_are(upstream: Make) -> None:
    one = upstream(None, 600)
    assert not any(admitted(one, tokens=20).later for _ in range(5))
    # Never more than the bucket holds.
    assert admitted(one, tokens=1000).later == pytest.approx(10, abs=1)


def test_a_call_that_is_larger_than_the_bucket_gets_in_when_it_is_full_and_is_paid_off_after(upstream: Make) -> None:
    one = upstream(None, 600)
    assert not admitted(one, tokens=500).later
    assert admitted(one, tokens=10).later == pytest.approx(41, abs=1)


class TestLanes:
    def test_bulk_work_leaves_people_their_share_of_what_comes_at_once(self, upstream: Make) -> None:
        one = upstream(60)
        assert burst(one, "bulk") == pytest.approx(10 * (1 - SHARE), abs=1)
        assert burst(one) >= 10 * SHARE - 1

    def test_bulk_work_alone_gets_no_more_than_the_rest_of_the_limit(self, upstream: Make) -> None:
        one, count, begun = upstream(1200, burst=BURST_SECONDS), 0, time.monotonic()
        while count <= 20:
            found = admitted(one, "bulk")
            count += not found.later
            time.sleep(found.later)
        assert count <= 20 * (1 - SHARE) * (time.monotonic() - begun + BURST_SECONDS) + 1

    def test_people_may_take_all(self, upstream: Make) -> None:
        one = upstream(60)
        assert burst(one) == pytest.approx(10, abs=1)
        assert burst(one, "bulk") == 0

    def test_bulk_work_takes_nothing_in_advance(self, upstream: Make) -> None:
        one = upstream(6, burst=100)
        burst(one, "bulk")
        assert all(admitted(one, "bulk", wait=100).later for _ in range(20))
        assert not admitted(one).later

    def test_those_who_wait_for_room_come_one_after_the_other(self, upstream: Make) -> None:
        one = upstream(60)
        burst(one, "bulk")
        laters = [admitted(one, "bulk", wait=0.5).later for _ in range(5)]
        assert laters[4] - laters[0] == pytest.approx(4 / (1 - SHARE), abs=0.5)

    def test_people_do_not_come_after_them_and_requests_of_ingest_are_told_when_there_is_room(
        self, upstream: Make
    ) -> None:
        one = upstream(60)
        burst(one)
        bulk = [admitted(one, "bulk", wait=0.5).later for _ in range(5)]
        assert admitted(one, "bulk").later < bulk[1]
        assert admitted(one, wait=0.5).later < bulk[0]

    def test_its_requests_are_no_larger_than_what_may_come_at_once(self, upstream: Make) -> None:
        one = upstream(None, 60_000, burst=BURST_SECONDS)
        assert one.limiter.most_tokens("bulk") == 350
        assert one.limiter.most_tokens("interactive") is None
        assert upstream().limiter.most_tokens("bulk") is None


class TestCorrections:
    def test_tokens_that_were_not_used_are_given_back(self, upstream: Make) -> None:
        one = upstream(None, 600)
        with one.call(tokens=100) as call:
            call.used(10)
        assert burst(one, tokens=10) == pytest.approx(9, abs=1)

    def test_tokens_beyond_the_estimate_are_owed(self, upstream: Make) -> None:
        one = upstream(None, 600)
        with one.call(tokens=10) as call:
            call.used(500)
        assert admitted(one, tokens=10).later == pytest.approx(41, abs=1)

    def test_what_is_owed_is_not_forgotten_before_it_is_paid(
        self, upstream: Make, client: redis.Redis, namespace: str
    ) -> None:
        one = upstream(None, 600)
        with one.call(tokens=10) as call:
            call.used(6000)
        admitted(one, "bulk", tokens=10)
        assert client.ttl(bucket_key(namespace, NAME)) > 600  # type: ignore[operator]

    def test_what_the_service_says_is_left_counts_where_it_is_less(self, upstream: Make) -> None:
        one = upstream(60)
        with one.call() as call:
            call.seen(headers(60, 3))
        assert burst(one) == pytest.approx(3, abs=1)

    def test_it_never_raises_what_the_settings_allow(self, upstream: Make) -> None:
        one = upstream(60)
        with one.call() as call:
            call.seen(headers(60_000, 59_000))
        assert burst(one) == pytest.approx(9, abs=1)

    def test_a_call_that_failed_has_used_what_was_reserved(self, upstream: Make) -> None:
        one = upstream(None, 60)
        with pytest.raises(ServerFault), one.call(tokens=10):
            raise ServerFault("It broke.")
        assert burst(one, tokens=5) == 0

    def test_a_call_that_was_not_made_has_used_nothing(self, upstream: Make) -> None:
        one = upstream(6, 60)
        one.limiter.settle("interactive", admitted(one, tokens=10), made=False)
        assert burst(one, tokens=10) == 1


class TestLearning:
    def test_a_limit_of_which_less_than_half_is_left_binds_all_processes(self, upstream: Make) -> None:
        one, other = upstream(), upstream()
        with one.call() as call:
            call.seen(headers(60, 9))
        assert burst(one) == pytest.approx(10, abs=1)
        assert burst(other) <= 1

    @pytest.mark.parametrize("left", [599, 301])
    def test_one_of_which_most_is_left_binds_nobody(
        self, left: int, upstream: Make, client: redis.Redis, namespace: str
    ) -> None:
        with upstream().call() as call:
            call.seen(headers(600, left))
        assert client.get(learned_key(namespace, NAME)) is None

    def test_a_lower_one_than_the_settings_say_binds_and_a_higher_one_does_not(self, upstream: Make) -> None:
        one = upstream(600)
        for limit in (1200, 300):
            with one.call() as call:
                call.seen(headers(limit, 10))
            assert one.limiter.limit.requests == min(600, limit)  # type: ignore[attr-defined]

    def test_it_is_known_as_soon_as_an_answer_has_begun(self, upstream: Make) -> None:
        one, other = upstream(), upstream()
        with one.call() as call:
            call.seen(headers(60, 9))
            assert other.limiter.limit.requests == 60  # type: ignore[attr-defined]

    def test_the_other_limit_binds_on(self, upstream: Make) -> None:
        one = upstream()
        few, many = Allowance(600, 9, 0.1), Allowance(60_000, 50_000, 0.1)
        one.limiter.settle("interactive", Admission(), seen={"requests": few, "tokens": many})
        few, many = Allowance(60_000, 9, 0.1), Allowance(600, 590, 0.1)
        one.limiter.settle("interactive", Admission(), seen={"requests": many, "tokens": few})
        assert upstream().limiter.limit == Limit(600, 60_000)  # type: ignore[attr-defined]

    def test_a_limit_that_was_raised_is_noted_with_the_other(self, upstream: Make) -> None:
        one = upstream()
        one.limiter.learn({"requests": Allowance(600, 9, 0.1)})
        one.limiter.learn({"requests": Allowance(900, 890, 0.1), "tokens": Allowance(60_000, 9, 0.1)})
        assert upstream().limiter.limit == Limit(900, 60_000)  # type: ignore[attr-defined]

    def test_it_is_told_to_the_others_once(self, upstream: Make, client: redis.Redis) -> None:
        one = upstream()
        low = {"requests": Allowance(600, 9, 0.1)}
        one.limiter.settle("interactive", Admission(), seen=low)
        before = commands(client)
        for _ in range(50):
            one.limiter.settle("interactive", Admission(), seen=low)
        assert commands(client) - before == 1  # the one that counts them


class TestGate:
    def test_who_has_not_heard_that_the_gate_is_closed_is_told_with_the_next_call(self, upstream: Make) -> None:
        one, other = upstream(6000), upstream(6000)
        with other.call():
            pass
        with pytest.raises(RateLimited), one.call():
            raise RateLimited("Slow down.", "", {"retry_after": 30})
        with pytest.raises(Postponed) as caught, other.call():
            pass
        assert caught.value.retry_after == pytest.approx(30, abs=1)
        assert "Slow down." in caught.value.message

    def test_the_probe_itself_gets_in(self, upstream: Make) -> None:
        one = upstream(6000)
        with pytest.raises(RateLimited), one.call():
            raise RateLimited("Slow down.", "", {"retry_after": 0.0})
        time.sleep(SHORTEST_CLOSURE)
        with one.call() as call:
            assert call.probe
        with one.call() as call:
            assert not call.probe


class TestCosts:
    def test_without_limits_a_call_costs_no_round_trip(self, upstream: Make, client: redis.Redis) -> None:
        one = upstream()
        with one.call():
            pass
        before, begun = commands(client), time.monotonic()
        for _ in range(200):
            with one.call(tokens=10) as call:
                call.used(9)
        readings = (time.monotonic() - begun) / 0.25 + 1
        assert commands(client) - before <= 1 + 8 * readings

    def test_every_key_goes_away_by_itself(self, upstream: Make, client: redis.Redis, namespace: str) -> None:
        one = upstream(600, 60_000)
        burst(one, tokens=100)
        with pytest.raises(RateLimited), one.call():
            raise RateLimited("Slow down.", "", {"retry_after": 1})
        one.limiter.settle("interactive", Admission(), seen={"requests": Allowance(600, 9, 0.1)})
        one.breaker.gate(0.0)
        keys = list(client.scan_iter(f"{namespace}:*"))
        assert {key.split(b":")[1] for key in keys} == {b"limit", b"pace", b"told", b"calls"}
        assert all(0 < client.ttl(key) < 1000 for key in keys)  # type: ignore[operator]

    def test_counts_and_how_long_they_stay_are_told_in_one_transaction(
        self, upstream: Make, client: redis.Redis
    ) -> None:
        one = upstream()
        before = transactions(client)
        with one.call():
            pass
        one.breaker.gate(0.0)
        assert transactions(client) == before + 1

    def test_without_redis_nothing_limits_and_nothing_fails(self, namespace: str) -> None:
        with make_client(f"redis://127.0.0.1:{free_port()}/0", connections=2, connect_timeout=1) as gone:
            board = Board(gone, namespace=namespace)
            store = RedisGateStore(gone, namespace=namespace, upstream="service", model="m", board=board)
            limiter = RedisLimiter(board, NAME, store.key, limit=Limit(60, 60), share=SHARE)
            one = Upstream("service", Breaker("service", store), limiter)
            for _ in range(20):
                with one.call(tokens=100) as call:
                    call.used(5)


class TestReport:
    def seen(self, client: redis.Redis, namespace: str, limit: Limit) -> UpstreamReport:
        return report(client, namespace, [Reported("chat", "m", "service", "m", limit)])[0]

    def test_a_quiet_one(self, client: redis.Redis, namespace: str) -> None:
        found = self.seen(client, namespace, Limit(600, None))
        assert (found.breaker, found.since, found.limit_requests, found.requests) == ("closed", None, 600, 0)

    def test_what_is_used_waits_and_was_told(self, upstream: Make, client: redis.Redis, namespace: str) -> None:
        one = upstream(60)
        with one.call(tokens=70) as call:
            call.used(50)
            call.seen(headers(30, 3))
        burst(one)
        admitted(one, "bulk")
        later = [admitted(one).later for _ in range(4)][-1]
        one.breaker.gate(0.0)
        found = self.seen(client, namespace, Limit(60, None))
        assert (found.limit_requests, found.told, found.tokens) == (30, True, 50)
        assert found.requests >= 3
        assert found.waiting_seconds == pytest.approx(later, abs=1)

    def test_a_closed_gate(self, upstream: Make, client: redis.Redis, namespace: str) -> None:
        with pytest.raises(RateLimited), upstream().call():
            raise RateLimited("Slow down.", "", {"retry_after": 30})
        found = self.seen(client, namespace, Limit())
        assert (found.breaker, found.cause) == ("open", "Slow down.")
        assert found.since == pytest.approx(time.time(), abs=5)
        assert found.retry_in == pytest.approx(30, abs=1)


def headers(limit: int, left: int) -> dict[str, str]:
    return {
        "x-ratelimit-limit-requests": str(limit),
        "X-RateLimit-Remaining-Requests": str(left),
        "x-ratelimit-reset-requests": "12ms",
    }
