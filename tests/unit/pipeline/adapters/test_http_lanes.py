from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from pipeline.adapters.http_lanes import AT_HAND, Lanes, make_transport
from tests.standin.fixture import StandInProcess
from tests.standin.scripted import Script, Scripted


@pytest.fixture
def client() -> Iterator[httpx2.Client]:
    with httpx2.Client(transport=Lanes(), timeout=5.0) as found:
        yield found


def crowd(client: httpx2.Client, standin: StandInProcess, size: int) -> list[int]:
    """The statuses of ``size`` requests at once."""
    standin.configure(held=True)
    body = {"model": "m", "input": "word"}
    with ThreadPoolExecutor(size) as pool:
        asked = [pool.submit(client.post, f"{standin.url}/embeddings", json=body) for _ in range(size)]
        standin.wait_for(lambda seen: seen["in_flight"] == size)
        standin.configure()
        return [one.result().status_code for one in asked]


def test_one_connection_serves_requests_after_one_another(client: httpx2.Client, standin: StandInProcess) -> None:
    for _ in range(5):
        assert client.get(f"{standin.url}/models").status_code == 200

    assert standin.counters()["connections"] == 1


def test_requests_at_once_have_a_connection_each_and_leave_it_to_the_next(
    client: httpx2.Client, standin: StandInProcess
) -> None:
    for _ in range(2):
        assert crowd(client, standin, 20) == [200] * 20

    counters = standin.counters()
    assert counters["max_in_flight"] == 20
    assert counters["connections"] == 20


def test_a_request_probes_its_own_connection_and_not_all_idle_ones(
    client: httpx2.Client, standin: StandInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under gevent every probe gives way to other greenlets, which made requests wait for each other."""
    crowd(client, standin, 20)
    probes: list[int] = []
    poll = select.poll

    def counted() -> Any:
        probes.append(1)
        return poll()

    monkeypatch.setattr(select, "poll", counted)

    client.get(f"{standin.url}/models")

    assert 1 <= len(probes) <= 2


def test_a_response_closed_early_frees_its_lane_without_its_connection(
    client: httpx2.Client, standin: StandInProcess
) -> None:
    """What is left of an answer that nobody reads must not turn up in the next one."""
    standin.configure(chunks=1000, stream_seconds=60)
    chat = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    with client.stream("POST", f"{standin.url}/chat/completions", json=chat) as response:
        next(response.iter_bytes())

    assert client.get(f"{standin.url}/models").json()["object"] == "list"
    assert standin.counters()["connections"] == 2


def test_a_response_tells_whether_more_of_it_is_at_hand(
    client: httpx2.Client, scripted: Callable[[Script], Scripted]
) -> None:
    """Both what the system holds and what the client has read, but not handed out yet."""
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    service = scripted([(0.0, head + b"1\r\na\r\n1\r\nb\r\n"), (0.3, b"1\r\nc\r\n0\r\n\r\n")])

    with client.stream("GET", service.host) as response:
        at_hand, pieces = response.extensions[AT_HAND], response.iter_raw()
        told = [(next(pieces), at_hand()), (next(pieces), at_hand())]
        time.sleep(0.6)
        told += [(b"", at_hand()), *((piece, at_hand()) for piece in pieces)]

    assert told == [(b"a", True), (b"b", False), (b"", True), (b"c", True)]


def test_a_connection_that_the_service_closed_is_replaced(
    client: httpx2.Client, start_standin: Callable[..., StandInProcess]
) -> None:
    first = start_standin()
    assert client.get(f"{first.url}/models").status_code == 200
    first.stop()

    second = start_standin("--port", first.url.split(":")[2].removesuffix("/v1"))

    assert second.url == first.url
    assert client.get(f"{second.url}/models").status_code == 200


def test_a_request_that_fails_leaves_nothing_behind(client: httpx2.Client, standin: StandInProcess) -> None:
    standin.configure(faults=[{"kind": "hang", "count": 1}])
    with pytest.raises(httpx2.ReadTimeout):
        client.get(f"{standin.url}/models", timeout=0.1)

    assert client.get(f"{standin.url}/models").status_code == 200


@pytest.mark.parametrize(("name", "lanes"), [("HTTPS_PROXY", False), ("NO_PROXY", True)])
def test_where_a_proxy_is_named_the_clients_own_transport_is_used(
    monkeypatch: pytest.MonkeyPatch, name: str, lanes: bool
) -> None:
    for known in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(known, raising=False)
        monkeypatch.delenv(known.lower(), raising=False)
    monkeypatch.setenv(name, "http://proxy.example:3128")

    assert (make_transport() is not None) == lanes
