"""What holds for every place where a gate is kept."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest
import redis

from deploy.local.redis import free_port
from pipeline.adapters import redis_pace
from pipeline.adapters.redis_board import Board
from pipeline.adapters.redis_pace import RedisGateStore
from pipeline.adapters.redis_stream import make_client
from pipeline.gate import Gate, GateStore, LocalGateStore, enter, refused, worked

PROCESSES = 3

# Each process asks once when all are ready, and says whether it was the probe.
ASK = """
import sys
from pipeline.adapters.redis_pace import RedisGateStore
from pipeline.adapters.redis_stream import make_client
from pipeline.gate import enter
client = make_client(sys.argv[1], connections=2, connect_timeout=5)
store = RedisGateStore(client, namespace=sys.argv[2], upstream="service", model="m")
client.ping()
print("ready", flush=True)
sys.stdin.readline()
print(store.change(enter).probe, flush=True)
"""


class GateStoreContract:
    """Inherit it and provide a fixture ``store``."""

    def test_a_change_is_there_for_the_next_one(self, store: GateStore) -> None:
        store.change(lambda gate, now: (refused(gate, now, 5.0), None))
        assert 4 < store.change(enter).wait <= 5

    def test_of_many_that_ask_at_once_one_is_the_probe(self, store: GateStore) -> None:
        together = threading.Barrier(8)

        def ask(_: int) -> bool:
            together.wait(20)
            return store.change(enter).probe

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(ask, range(8))) == 1

    def test_no_change_is_lost_where_many_change_it_at_once(self, store: GateStore) -> None:
        def count(gate: Gate, _now: float) -> tuple[Gate, None]:
            return Gate(faults=gate.faults + 1), None

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: store.change(count), range(60)))
        assert store.change(lambda gate, _: (gate, gate.faults)) == 60

    def test_its_clock_goes_on(self, store: GateStore) -> None:
        first = store.change(lambda gate, now: (gate, now))
        time.sleep(0.05)
        assert 0.04 < store.change(lambda gate, now: (gate, now)) - first < 5


class TestLocal(GateStoreContract):
    @pytest.fixture
    def store(self) -> GateStore:
        return LocalGateStore()


class TestRedis(GateStoreContract):
    @pytest.fixture
    def client(self, redis_url: str) -> Iterator[redis.Redis]:
        with make_client(redis_url, connections=20, connect_timeout=5) as client:
            yield client

    @pytest.fixture
    def namespace(self) -> str:
        return f"test-{uuid.uuid4().hex}"

    @pytest.fixture
    def store(self, client: redis.Redis, namespace: str) -> RedisGateStore:
        return RedisGateStore(client, namespace=namespace, upstream="service", model="m")

    def test_of_several_processes_one_is_the_probe(self, redis_url: str, namespace: str) -> None:
        command = [sys.executable, "-c", ASK, redis_url, namespace]
        asking = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(PROCESSES)
        ]
        for process in asking:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in asking:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.communicate(timeout=20)[0].strip() for process in asking]
        assert sorted(answers) == ["False"] * (PROCESSES - 1) + ["True"]

    def test_what_one_worker_learns_another_knows_at_once(
        self, store: RedisGateStore, client: redis.Redis, namespace: str
    ) -> None:
        other = RedisGateStore(client, namespace=namespace, upstream="service", model="m")
        store.change(lambda gate, now: (worked(gate, now, True), None))
        assert other.change(enter).wait == 0
        store.change(lambda gate, now: (refused(gate, now, 9.0), None))
        assert other.change(enter).wait > 8

    def test_each_model_has_a_gate_of_its_own(self, store: RedisGateStore, client: redis.Redis, namespace: str) -> None:
        store.change(lambda gate, now: (refused(gate, now, 9.0), None))
        other = RedisGateStore(client, namespace=namespace, upstream="service", model="another")
        assert other.change(enter).probe

    def test_its_key_goes_away_by_itself_but_not_while_it_is_closed(
        self, store: RedisGateStore, client: redis.Redis, namespace: str
    ) -> None:
        store.change(lambda gate, now: (refused(gate, now, 1000.0), None))
        assert 1000 < client.ttl(f"{namespace}:pace:service:m") < 2000

    @pytest.mark.parametrize("raw", ['{"unknown": 1}', "[1]", "1", "no JSON"])
    def test_what_can_not_be_read_is_forgotten(self, store: RedisGateStore, client: redis.Redis, raw: str) -> None:
        client.set(store.key, raw, ex=10)
        assert store.change(enter).probe

    def test_of_what_a_newer_release_wrote_all_that_is_known_counts(
        self, store: RedisGateStore, client: redis.Redis
    ) -> None:
        closed = asdict(refused(Gate(), time.time(), 9.0))
        client.set(store.key, json.dumps({**closed, "of_a_newer_release": 1}), ex=10)
        assert store.change(enter).wait > 8

    def test_many_refusals_at_once_write_it_once(self, store: RedisGateStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Given requests that were under way together and are refused a little later each, when all tell of it, then
        those that come after the first find nothing to change.
        """
        together, swapped = threading.Barrier(16), store._swapped
        writes: list[bool] = []
        begun = store.change(lambda gate, now: (gate, now))

        def noted(raw: bytes, gate: Gate, now: float) -> bool:
            writes.append(swapped(raw, gate, now))
            return writes[-1]

        def tell(_: int) -> None:
            together.wait(20)
            for _ in range(10):
                store.change(lambda gate, _: (refused(gate, begun + 0.1, 5.0), None))

        monkeypatch.setattr(store, "_swapped", noted)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(tell, range(16)))
        assert sum(writes) == 1

    def test_where_others_change_it_all_the_time_redis_is_not_taken_to_be_down(
        self, client: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_pace, "_TRIES", 3)
        board = Board(client, namespace=namespace)
        store = RedisGateStore(client, namespace=namespace, upstream="service", model="m", board=board)

        def beaten(gate: Gate, now: float) -> tuple[Gate, str]:
            client.set(store.key, json.dumps({"faults": time.monotonic_ns()}), ex=10)
            return refused(gate, now, 5.0), "done"

        assert store.change(beaten) == "done"
        assert board.is_shared

    def test_without_redis_each_process_goes_on_with_a_gate_of_its_own(self, namespace: str) -> None:
        with make_client(f"redis://127.0.0.1:{free_port()}/0", connections=2, connect_timeout=1) as gone:
            store = RedisGateStore(gone, namespace=namespace, upstream="service", model="m")
            assert store.change(enter).probe
            store.change(lambda gate, now: (refused(gate, now, 9.0), None))
            assert store.change(enter).wait > 8
