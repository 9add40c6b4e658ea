"""What holds for every way to tell that questions were given up."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from deploy.local.redis import free_port, start_redis
from pipeline import cancelling
from pipeline.adapters import redis_cancellations
from pipeline.adapters.redis_cancellations import RedisCancellations
from pipeline.adapters.redis_stream import make_client
from pipeline.cancelling import Abort, LocalCancellations
from pipeline.errors import Unreachable
from pipeline.seams import Cancellations
from tests.installation import eventually


@contextmanager
def heard(abort: Abort) -> Iterator[threading.Event]:
    """An event that is set when the abort is triggered."""
    event = threading.Event()
    with abort.calling(event.set):
        yield event


class CancellationsContract:
    """Inherit it and provide a fixture ``cancellations``."""

    def test_whoever_watches_is_told_at_once(self, cancellations: Cancellations) -> None:
        with cancellations.watch("a") as one, cancellations.watch("a") as two, cancellations.watch("b") as other:
            with heard(one) as first, heard(two) as second:
                cancellations.announce("a")
                assert first.wait(5)
                assert second.wait(5)
            assert not other.triggered

    def test_who_comes_later_finds_it_known(self, cancellations: Cancellations) -> None:
        assert not cancellations.is_cancelled("a")
        cancellations.announce("a")
        eventually(lambda: cancellations.is_cancelled("a"), within=5)
        with cancellations.watch("a") as abort:
            assert abort.triggered
        assert not cancellations.is_cancelled("b")

    def test_telling_it_twice_is_telling_it_once(self, cancellations: Cancellations) -> None:
        with cancellations.watch("a") as abort, heard(abort) as event:
            cancellations.announce("a")
            cancellations.announce("a")
            assert event.wait(5)
        assert abort.triggered

    def test_what_is_no_longer_watched_is_left_alone(self, cancellations: Cancellations) -> None:
        with cancellations.watch("a") as abort:
            pass
        cancellations.announce("a")
        eventually(lambda: cancellations.is_cancelled("a"), within=5)
        assert not abort.triggered


class TestLocal(CancellationsContract):
    @pytest.fixture
    def cancellations(self) -> Cancellations:
        return LocalCancellations()

    def test_of_many_it_remembers_the_newest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cancelling, "MOST_KNOWN", 3)
        cancellations = LocalCancellations()
        for name in "abcde":
            cancellations.announce(name)
        assert [name for name in "abcde" if cancellations.is_cancelled(name)] == ["c", "d", "e"]


Listening = Callable[..., RedisCancellations]


class TestRedis(CancellationsContract):
    @pytest.fixture
    def client(self, redis_url: str) -> Iterator[redis.Redis]:
        with make_client(redis_url, connections=20, connect_timeout=5) as client:
            yield client

    @pytest.fixture
    def namespace(self) -> str:
        return f"test-{uuid.uuid4().hex}"

    @pytest.fixture
    def listening(self, client: redis.Redis, namespace: str) -> Iterator[Listening]:
        """Makes what a process has; ``on_record`` is the ledger."""
        made: list[RedisCancellations] = []

        def make(on_record: list[str] | None = None) -> RedisCancellations:
            ids = on_record or []
            made.append(RedisCancellations(client, namespace=namespace, on_record=lambda: ids))
            return made[-1]

        yield make
        for cancellations in made:
            cancellations.close()

    @pytest.fixture
    def cancellations(self, listening: Listening) -> RedisCancellations:
        return listening()

    def test_all_processes_hear_what_one_says(self, listening: Listening) -> None:
        one, other = listening(), listening()
        with one.watch("a") as mine, other.watch("a") as theirs, heard(mine) as first, heard(theirs) as second:
            listening().announce("a")
            assert first.wait(5)
            assert second.wait(5)

    def test_what_was_cancelled_before_the_process_began_is_known_from_the_first_moment(
        self, listening: Listening
    ) -> None:
        late = listening(["a"])
        assert late.is_cancelled("a")

    def test_watching_and_asking_cost_redis_nothing(
        self, cancellations: RedisCancellations, client: redis.Redis
    ) -> None:
        cancellations.is_cancelled("first")
        before = client.info("commandstats")
        for number in range(100):
            with cancellations.watch(str(number)) as abort:
                assert not abort.triggered
            assert not cancellations.is_cancelled(str(number))
        after = client.info("commandstats")
        calls = {name: stats["calls"] - before.get(name, {"calls": 0})["calls"] for name, stats in after.items()}
        assert {name for name, more in calls.items() if more} <= {"cmdstat_info"}

    def test_another_installation_hears_nothing(self, client: redis.Redis, listening: Listening) -> None:
        mine = listening()
        others = RedisCancellations(client, namespace=f"test-{uuid.uuid4().hex}", on_record=list)
        with mine.watch("a") as abort, heard(abort) as event:
            others.announce("a")
            others.announce("b")
            mine.announce("c")
            eventually(lambda: mine.is_cancelled("c"))
            assert not event.is_set()

    def test_without_redis_nobody_is_told_and_nothing_waits(self) -> None:
        with make_client(f"redis://127.0.0.1:{free_port()}/0", connections=4, connect_timeout=1) as gone:
            alone = RedisCancellations(gone, namespace="n", on_record=list)
            with pytest.raises(Unreachable):
                alone.announce("a")
            with alone.watch("a") as abort:
                assert not abort.triggered
            alone.close()

    def test_silence_is_no_reason_to_subscribe_again_but_no_answer_to_a_ping_is(
        self, services_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A connection may be dead without a word, as behind a firewall that forgot it."""
        monkeypatch.setattr(redis_cancellations, "_PING_AFTER", 0.1)
        server = start_redis(services_folder / f"redis-{uuid.uuid4().hex[:8]}", die_with_parent=True)
        looks: list[int] = []
        with make_client(server.url, connections=4, connect_timeout=2) as client:
            cancellations = RedisCancellations(client, namespace="n", on_record=lambda: looks.append(1) or [])  # type: ignore[func-returns-value]
            cancellations.is_cancelled("a")
            eventually(lambda: _pings_without_a_look(client, looks) >= 3)
            before = len(looks)
            os.kill(server.record.process.pid, signal.SIGSTOP)
            time.sleep(0.5)
            os.kill(server.record.process.pid, signal.SIGCONT)
            eventually(lambda: len(looks) > before)
            cancellations.close()
        server.stop()

    def test_a_restart_of_redis_loses_nothing(self, services_folder: Path) -> None:
        """Cancelled while Redis is down: the ledger has it. After that, messages are heard again."""
        folder = services_folder / f"redis-{uuid.uuid4().hex[:8]}"
        server, on_record = start_redis(folder, die_with_parent=True), list[str]()
        with make_client(server.url, connections=4, connect_timeout=2) as client:
            cancellations = RedisCancellations(client, namespace="n", on_record=lambda: on_record)
            with cancellations.watch("meanwhile") as lost, cancellations.watch("afterwards") as heard_again:
                server.stop()
                on_record.append("meanwhile")
                with pytest.raises(Unreachable):
                    cancellations.announce("meanwhile")
                server = start_redis(folder, port=urlsplit(server.url).port, die_with_parent=True)
                with heard(lost) as event:
                    assert event.wait(10)
                cancellations.announce("afterwards")
                with heard(heard_again) as event:
                    assert event.wait(5)
            cancellations.close()
        server.stop()


def _pings_without_a_look(client: redis.Redis, looks: list[int]) -> int:
    """In half a second. A Redis that stands still for a moment answers no ping in time, and is subscribed to again."""
    pings, before = _pings(client), len(looks)
    time.sleep(0.5)
    return _pings(client) - pings if len(looks) == before else 0


def _pings(client: redis.Redis) -> int:
    return int(client.info("commandstats")["cmdstat_ping"]["calls"])  # type: ignore[index]
