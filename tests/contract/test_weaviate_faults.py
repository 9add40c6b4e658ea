"""A Weaviate that is down, frozen, elsewhere or locked: always one of our errors, in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from uuid import uuid4

import numpy as np
import pytest

from pipeline.adapters.weaviate import WeaviateStore
from pipeline.errors import (
    AuthenticationFailed,
    BadSettings,
    CeleriacError,
    RequestRejected,
    ServerFault,
    TimedOut,
    Unreachable,
)
from pipeline.types import IndexEntry, IndexRef
from tests.weaviate_server import WeaviateServer, weaviate_program

if weaviate_program() is None:
    pytest.skip("WEAVIATE NOT TESTED: no `weaviate` program on PATH to stop and freeze.", allow_module_level=True)

INDEX = IndexRef(kb_id=str(uuid4()), model="faults", dimensions=2)
EAST = np.array([1, 0], dtype=np.float32)
ENTRY = IndexEntry(chunk_id=str(uuid4()), document_id="d", generation=1, vector=EAST, keywords="apple")

Call = Callable[[WeaviateStore, float], object]
CALLS: dict[str, Call] = {
    "vector_search": lambda store, timeout: store.vector_search(INDEX, EAST, 1, timeout=timeout),
    "keyword_search": lambda store, timeout: store.keyword_search(INDEX, "apple", 1, timeout=timeout),
    "upsert": lambda store, timeout: store.upsert(INDEX, [ENTRY], timeout=timeout),
    "delete": lambda store, timeout: store.delete(INDEX, [str(uuid4())], timeout=timeout),
    "drop": lambda store, timeout: store.drop(INDEX, timeout=timeout),
    "chunk_ids": lambda store, timeout: list(store.chunk_ids(INDEX, timeout=timeout)),
    "check": lambda store, timeout: store.check(timeout=timeout),
}


@pytest.fixture(scope="module")
def server() -> Iterator[WeaviateServer]:
    """A server to stop and to freeze; every test leaves it running."""
    one = WeaviateServer()
    try:
        one.start()
        yield one
    finally:
        one.remove()


@pytest.fixture(scope="module")
def locked_server() -> Iterator[WeaviateServer]:
    """A server that asks for a key."""
    one = WeaviateServer(api_key="sesame")
    try:
        one.start()
        yield one
    finally:
        one.remove()


@pytest.fixture
def open_store() -> Iterator[Callable[..., WeaviateStore]]:
    """Makes stores and closes them afterwards."""
    made: list[WeaviateStore] = []

    def make(url: str, grpc_url: str | None, api_key: str | None = None) -> WeaviateStore:
        made.append(WeaviateStore(url, grpc_url=grpc_url, api_key=api_key, connect_timeout=2.0))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def store(server: WeaviateServer, open_store: Callable[..., WeaviateStore]) -> WeaviateStore:
    """A store that has spoken to the server already."""
    one = open_store(server.url, server.grpc_url)
    one.upsert(INDEX, [ENTRY], timeout=10)
    return one


def test_a_stopped_server_is_unreachable_soon_and_found_again_when_it_returns(
    server: WeaviateServer, store: WeaviateStore, open_store: Callable[..., WeaviateStore]
) -> None:
    """weaviate-client by itself would sleep and try again for a minute; and the store needs no restart. Calls are
    seconds apart, as an open circuit breaker has them: gRPC gets on with connecting only while one waits.
    """
    server.stop()
    try:
        for act in CALLS.values():
            _fails(Unreachable, store, act, timeout=20, within=4)
        _fails(Unreachable, open_store(server.url, server.grpc_url), CALLS["vector_search"], timeout=20, within=4)
    finally:
        server.start()
    give_up = time.monotonic() + 8
    while True:
        try:
            hits = store.vector_search(INDEX, EAST, 1, timeout=5)
            break
        except Unreachable:
            assert time.monotonic() < give_up, "not found again"
            time.sleep(3)
    assert [hit.chunk_id for hit in hits] == [ENTRY.chunk_id]


@pytest.mark.parametrize("name", CALLS)
def test_a_frozen_server_is_given_up_at_the_deadline_of_the_call(
    server: WeaviateServer, store: WeaviateStore, name: str
) -> None:
    """The deadline is the call's own, over REST and gRPC alike, not the client's."""
    server.pause()
    try:
        _fails(TimedOut, store, CALLS[name], timeout=0.5, within=15)
    finally:
        server.resume()


def test_a_client_that_opens_on_a_frozen_server_waits_no_longer_than_the_call_may(
    server: WeaviateServer, open_store: Callable[..., WeaviateStore]
) -> None:
    server.pause()
    try:
        _fails(TimedOut, open_store(server.url, server.grpc_url), CALLS["vector_search"], timeout=0.5, within=15)
    finally:
        server.resume()


def test_many_that_wait_for_one_client_to_open_each_keep_their_deadline(
    server: WeaviateServer, open_store: Callable[..., WeaviateStore]
) -> None:
    store = open_store(server.url, server.grpc_url)
    server.pause()
    try:
        with ThreadPoolExecutor(8) as pool:
            act = CALLS["vector_search"]
            list(pool.map(lambda _: _fails(TimedOut, store, act, timeout=0.5, within=15), range(8)))
    finally:
        server.resume()


def test_a_wrong_grpc_port_is_named(server: WeaviateServer, open_store: Callable[..., WeaviateStore]) -> None:
    error = _fails(Unreachable, open_store(server.url, "127.0.0.1:1"), CALLS["check"], timeout=5, within=4)
    assert "gRPC on 127.0.0.1:1" in error.message
    assert "WEAVIATE_GRPC_URL" in error.hint


def test_another_grpc_service_is_rejected(server: WeaviateServer, open_store: Callable[..., WeaviateStore]) -> None:
    elsewhere = open_store(server.url, f"127.0.0.1:{server.ports['data']}")
    error = _fails(RequestRejected, elsewhere, CALLS["vector_search"], timeout=5, within=4)
    assert "WEAVIATE_GRPC_URL" in error.hint


def test_a_host_that_does_not_resolve_is_unreachable(open_store: Callable[..., WeaviateStore]) -> None:
    error = _fails(Unreachable, open_store("http://nowhere.invalid:80", None), CALLS["check"], timeout=5, within=4)
    assert "http://nowhere.invalid:80" in error.message


@pytest.mark.parametrize("body", [b"{}", b"[]", b"<html>Sign in</html>"], ids=["object", "list", "html"])
def test_another_web_server_is_told_apart(body: bytes, open_store: Callable[..., WeaviateStore]) -> None:
    with _web_server(body) as port:
        store = open_store(f"http://127.0.0.1:{port}", "127.0.0.1:1")
        error = _fails(ServerFault, store, CALLS["check"], timeout=5, within=4)
    assert f"http://127.0.0.1:{port}" in error.message


def test_a_server_that_is_too_old_is_a_bad_setting(open_store: Callable[..., WeaviateStore]) -> None:
    with _web_server(b'{"version": "1.26.9"}') as port:
        store = open_store(f"http://127.0.0.1:{port}", "127.0.0.1:1")
        error = _fails(BadSettings, store, CALLS["check"], timeout=5, within=4)
    assert "1.26.9" in error.message
    assert "1.27" in error.message


@pytest.mark.parametrize("key", [None, "wrong-key"])
def test_a_missing_or_wrong_key_is_refused_and_not_repeated_in_the_message(
    locked_server: WeaviateServer, open_store: Callable[..., WeaviateStore], key: str | None
) -> None:
    store = open_store(locked_server.url, locked_server.grpc_url, key)
    error = _fails(AuthenticationFailed, store, CALLS["vector_search"], timeout=5, within=4)
    assert error.detail == {"upstream": "weaviate", "status": 401}
    assert "WEAVIATE_API_KEY" in error.hint
    assert "wrong-key" not in str(error)


def test_the_right_key_opens_rest_and_grpc(
    locked_server: WeaviateServer, open_store: Callable[..., WeaviateStore]
) -> None:
    store = open_store(locked_server.url, locked_server.grpc_url, "sesame")
    store.upsert(INDEX, [ENTRY], timeout=10)
    assert [hit.chunk_id for hit in store.vector_search(INDEX, EAST, 1, timeout=5)] == [ENTRY.chunk_id]


def _fails(
    kind: type[CeleriacError], store: WeaviateStore, act: Call, *, timeout: float, within: float
) -> CeleriacError:
    """The error, after checking that it is of ``kind``, of one line, and came ``within`` seconds."""
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        act(store, timeout)
    assert time.monotonic() - start < within
    assert "\n" not in str(caught.value)
    assert caught.value.detail["upstream"] == "weaviate"
    return caught.value


@contextmanager
def _web_server(body: bytes) -> Iterator[int]:
    """A web server that answers every request with ``body``; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()
