"""Who leads, who follows and who goes alone, in a real Redis."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest
import redis

from pipeline.adapters.redis_flights import RedisFlights
from pipeline.adapters.redis_stream import make_client
from pipeline.caching.flights import Claim, Follower, Standing
from pipeline.types import StageTiming

KEPT = ("answer:1", "retrieval:1", "vector:1")


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    client = make_client(redis_url, connections=2, connect_timeout=5)
    yield client
    client.connection_pool.disconnect()


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def flights(client: redis.Redis, namespace: str) -> RedisFlights:
    return RedisFlights(client, namespace=namespace)


def claim(name: str, deadline: float = 100.0, epoch: int = 0) -> Claim:
    timing = StageTiming(stage="guard", queue_ms=1.5)
    follower = Follower(question_id=name, epoch=epoch, deadline=deadline, since=time.time(), guard=timing)
    return Claim("flight", follower, ttl=60.0)


def standing(flights: RedisFlights, name: str, **how: float) -> Standing:
    return flights.look(KEPT, claim(name, **how))[1]  # type: ignore[arg-type]


def test_the_first_leads_and_the_others_follow_if_they_have_the_time(flights: RedisFlights) -> None:
    assert standing(flights, "a").leads
    assert standing(flights, "b").follows == "a"
    assert standing(flights, "c", deadline=99.5).follows == "a"
    assert standing(flights, "a").leads, "delivered again, it leads on"
    assert flights.leaders(["a", "b", "c"]) == {"b": "a", "c": "a"}


def test_who_has_no_time_to_follow_leads_those_who_come_now(flights: RedisFlights) -> None:
    standing(flights, "a")
    standing(flights, "b")
    assert standing(flights, "c", deadline=98.5).leads
    assert standing(flights, "d", deadline=98.5).follows == "c"
    assert standing(flights, "a").leads, "those behind it still wait for it"
    assert [follower.question_id for follower in flights.land("a", {}, 60.0)] == ["b"]
    assert standing(flights, "e", deadline=98.5).follows == "c"
    assert [follower.question_id for follower in flights.land("c", {}, 60.0)] == ["d", "e"]


def test_who_lands_gets_its_followers_once_and_leaves_what_it_kept(flights: RedisFlights) -> None:
    assert standing(flights, "a").leads
    for name in ("b", "c", "b"):
        standing(flights, name)
    assert [follower.question_id for follower in flights.land("a", {KEPT[0]: b"it"}, 60.0)] == ["b", "c"]
    assert flights.land("a", {}, 60.0) == []
    assert flights.look(KEPT, claim("d")) == ([b"it", None, None], Standing())


def test_after_one_that_kept_nothing_the_next_one_leads(flights: RedisFlights) -> None:
    standing(flights, "a")
    flights.land("a", {}, 60.0)
    assert standing(flights, "b").leads
    assert flights.land("a", {}, 60.0) == [], "whoever lands late takes nothing from another one"
    assert standing(flights, "c").follows == "b"


def test_who_begins_anew_follows_nobody_of_before(flights: RedisFlights) -> None:
    standing(flights, "a")
    standing(flights, "b")
    flights.land("a", {}, 60.0)
    assert standing(flights, "b", epoch=1).leads
    assert flights.leaders(["b"]) == {}


def test_every_key_has_an_end(flights: RedisFlights, client: redis.Redis, namespace: str) -> None:
    standing(flights, "a")
    standing(flights, "b")
    keys = list(client.scan_iter(f"{namespace}:*"))
    assert len(keys) == 4
    assert all(0 < client.pttl(key) <= 60_000 for key in keys)  # type: ignore[operator]


def test_without_redis_a_question_follows_nobody(namespace: str) -> None:
    client = make_client("redis://127.0.0.1:1/0", connections=2, connect_timeout=1)
    flights = RedisFlights(client, namespace=namespace)
    # It may lead all the same: the server may have heard it, and only the reply was lost.
    assert flights.look(KEPT, claim("a")) == ([None] * 3, Standing(leads=True, leader="a"))
    assert flights.land("a", {KEPT[0]: b"it"}, 60.0) == []
