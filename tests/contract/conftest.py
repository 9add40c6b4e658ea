"""Real stores for the contract tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.adapters.weaviate import WeaviateStore
from tests import weaviate_server


@pytest.fixture(scope="session")
def weaviate_address() -> Iterator[tuple[str, str | None]]:
    """REST and gRPC address of a Weaviate: WEAVIATE_URL's, or else of a server started for the session."""
    if weaviate_server.CONFIGURED_URL:
        yield weaviate_server.CONFIGURED_URL, weaviate_server.CONFIGURED_GRPC_URL
        return
    if weaviate_server.weaviate_program() is None:
        pytest.skip("WEAVIATE NOT TESTED: set WEAVIATE_URL or put a `weaviate` program on PATH.")
    server = weaviate_server.WeaviateServer()
    try:
        server.start()
        yield server.url, server.grpc_url
    finally:
        server.remove()


@pytest.fixture(scope="session")
def weaviate_url(weaviate_address: tuple[str, str | None]) -> str:
    """REST address of a running Weaviate."""
    return weaviate_address[0]


@pytest.fixture
def weaviate_store(weaviate_address: tuple[str, str | None]) -> Iterator[WeaviateStore]:
    """A new store; tests use knowledge base ids of their own, so there is nothing to clean."""
    url, grpc_url = weaviate_address
    store = WeaviateStore(url, grpc_url=grpc_url, api_key=weaviate_server.CONFIGURED_API_KEY, connect_timeout=5.0)
    yield store
    store.close()
