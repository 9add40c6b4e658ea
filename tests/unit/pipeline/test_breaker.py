"""The circuit breaker in one process, and over a real Redis in two."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator

import pytest
import redis

from deploy.local.redis import free_port
from pipeline.adapters.redis_board import Board
from pipeline.adapters.redis_pace import RedisGateStore
from pipeline.adapters.redis_stream import make_client
from pipeline.breaker import FRESH, Breaker
from pipeline.errors import RateLimited, ServerFault
from pipeline.gate import GateStore, LocalGateStore, refused

FAULT = ServerFault("It broke.")
FAULTS, SECONDS = 3, 0.5


def breaker_of(store: GateStore, *, span: float = 0.0) -> Breaker:
    return Breaker("service", store, faults=FAULTS, seconds=SECONDS, span=span)


def state(breaker: Breaker) -> str:
    gate, now = breaker.gate(0.0)
    return gate.state(now)


def open_it(breaker: Breaker) -> None:
    for _ in range(FAULTS):
        breaker.faulted(FAULT, probe=False)


def shut(seconds: float) -> RateLimited:
    return RateLimited("Slow down.", "", {"retry_after": seconds})


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with make_client(redis_url, connections=20, connect_timeout=5) as client:
        yield client


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid.uuid4().hex}"


class TestOneProcess:
    @pytest.fixture
    def breaker(self) -> Breaker:
        """Closed, in the terms of breakers."""
        return breaker_of(LocalGateStore())

    def test_at_the_start_it_lets_everybody_through(self, breaker: Breaker) -> None:
        assert state(breaker) == "closed"
        assert not any(breaker.enter().probe or breaker.enter().wait for _ in range(5))

    def test_it_opens_after_so_many_faults_in_a_row_and_no_sooner(self, breaker: Breaker) -> None:
        for _ in range(FAULTS - 1):
            breaker.faulted(FAULT, probe=False)
            assert state(breaker) == "closed"
        assert breaker.faulted(FAULT, probe=False) == pytest.approx(SECONDS)
        assert (state(breaker), breaker.enter().wait > 0) == ("open", True)

    def test_a_success_between_two_faults_begins_the_count_anew(self, breaker: Breaker) -> None:
        for _ in range(4 * FAULTS):
            breaker.faulted(FAULT, probe=False)
            breaker.worked(probe=False)
        assert state(breaker) == "closed"

    def test_faults_of_calls_that_were_made_at_once_are_no_outage_before_the_others_could_succeed(self) -> None:
        breaker = breaker_of(LocalGateStore(), span=SECONDS)
        for _ in range(4 * FAULTS):
            breaker.faulted(FAULT, probe=False)
        assert state(breaker) == "closed"
        time.sleep(SECONDS)
        assert breaker.faulted(FAULT, probe=False) > 0

    def test_while_it_begins_answers_the_time_that_faults_must_span_begins_anew(self) -> None:
        breaker = breaker_of(LocalGateStore(), span=SECONDS)
        for _ in range(3):
            open_it(breaker)
            time.sleep(SECONDS / 2)
            breaker.answered()
        assert breaker.faulted(FAULT, probe=False) == 0
        assert state(breaker) == "closed"

    def test_calls_that_were_long_without_an_answer_are_one_as_soon_as_they_end(self) -> None:
        breaker = breaker_of(LocalGateStore(), span=SECONDS)
        for _ in range(FAULTS - 1):
            assert breaker.faulted(FAULT, probe=False, lasted=SECONDS) == 0
        assert breaker.faulted(FAULT, probe=False, lasted=SECONDS) > 0

    def test_half_open_it_lets_one_probe_through_at_a_time(self, breaker: Breaker) -> None:
        open_it(breaker)
        time.sleep(SECONDS)
        assert state(breaker) == "half-open"
        assert [breaker.enter().probe for _ in range(3)] == [True, False, False]

    def test_a_probe_that_works_closes_it_and_one_that_fails_opens_it_for_longer(self, breaker: Breaker) -> None:
        open_it(breaker)
        time.sleep(SECONDS)
        assert breaker.enter().probe
        assert breaker.faulted(FAULT, probe=True) > SECONDS
        time.sleep(1.5 * SECONDS)
        assert breaker.enter().probe
        breaker.worked(probe=True)
        assert state(breaker) == "closed"

    def test_a_probe_that_was_not_made_leaves_its_turn(self, breaker: Breaker) -> None:
        open_it(breaker)
        time.sleep(SECONDS)
        assert breaker.enter().probe
        breaker.left(probe=True)
        assert breaker.enter().probe

    def test_since_when_it_is_open_and_why_stays_on_record_through_failed_probes(self, breaker: Breaker) -> None:
        open_it(breaker)
        first, _ = breaker.gate()
        time.sleep(SECONDS)
        breaker.enter()
        breaker.faulted(ServerFault("It broke again."), probe=True)
        gate, _ = breaker.gate()
        assert (gate.closed_at, gate.cause, gate.refused) == (first.closed_at, "It broke again.", False)

    def test_one_refusal_opens_it_for_as_long_as_the_service_asks(self, breaker: Breaker) -> None:
        assert breaker.refused(shut(7)) == pytest.approx(7, abs=0.1)
        gate, _ = breaker.gate()
        assert (state(breaker), gate.refused) == ("open", True)


class TestAllProcesses:
    @pytest.fixture
    def two(self, redis_url: str, namespace: str) -> Iterator[tuple[Breaker, Breaker]]:
        """As two workers have them."""
        with (
            make_client(redis_url, connections=5, connect_timeout=5) as one,
            make_client(redis_url, connections=5, connect_timeout=5) as other,
        ):
            stores = [RedisGateStore(c, namespace=namespace, upstream="s", model="m") for c in (one, other)]
            yield breaker_of(stores[0]), breaker_of(stores[1])

    def test_faults_of_all_count_together_and_it_opens_for_all(self, two: tuple[Breaker, Breaker]) -> None:
        for number in range(FAULTS):
            two[number % 2].faulted(FAULT, probe=False)
        assert [state(breaker) for breaker in two] == ["open", "open"]

    def test_half_open_there_is_one_probe_of_all_and_its_success_closes_it_for_all(
        self, two: tuple[Breaker, Breaker]
    ) -> None:
        open_it(two[0])
        time.sleep(SECONDS + 0.05)
        entries = [breaker.enter(0.0) for breaker in two]
        assert [entry.probe for entry in entries] == [True, False]
        two[0].worked(probe=True)
        assert [state(breaker) for breaker in two] == ["closed", "closed"]

    def test_while_all_is_well_a_call_costs_no_round_trip(self, client: redis.Redis, namespace: str) -> None:
        breaker = breaker_of(RedisGateStore(client, namespace=namespace, upstream="s", model="m"))
        breaker.enter()
        before, begun = commands(client), time.monotonic()
        for _ in range(200):
            breaker.enter()
            breaker.worked(probe=False)
        readings = (time.monotonic() - begun) / FRESH + 1
        assert commands(client) - before <= 1 + 2 * readings  # one for counting them; two in each reading

    def test_what_another_one_sees_is_known_within_a_fraction_of_a_second(self, two: tuple[Breaker, Breaker]) -> None:
        two[1].enter()
        two[0].refused(shut(30))
        time.sleep(FRESH)
        assert two[1].enter().wait > 10

    def test_without_redis_each_process_has_one_of_its_own(self, namespace: str) -> None:
        with make_client(f"redis://127.0.0.1:{free_port()}/0", connections=2, connect_timeout=1) as gone:
            breaker = breaker_of(RedisGateStore(gone, namespace=namespace, upstream="s", model="m"))
            assert not breaker.enter().wait
            open_it(breaker)
            assert state(breaker) == "open"
            time.sleep(SECONDS)
            assert breaker.enter().probe

    def test_a_reading_under_way_does_not_undo_what_this_process_has_just_written(
        self, client: redis.Redis, namespace: str
    ) -> None:
        board = Board(client, namespace=namespace)
        store = RedisGateStore(client, namespace=namespace, upstream="s", model="m", board=board)
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                board.get(store.key, 0.0)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for number in range(50):
                store.change(lambda gate, now, n=number: (refused(gate, now, 100.0 + n), None))  # type: ignore[misc]
                assert store.look(60)[0].closed_until > store.look(60)[1] + 99 + number
        finally:
            stop.set()
            reader.join(5)


def commands(client: redis.Redis) -> int:
    return int(client.info("stats")["total_commands_processed"])  # type: ignore[index]
