"""Addresses of Weaviate from its settings."""

from __future__ import annotations

import pytest

from pipeline.adapters.weaviate import WeaviateStore
from pipeline.adapters.weaviate.addresses import grpc_address, rest_address
from pipeline.errors import BadSettings


@pytest.mark.parametrize(
    ("url", "grpc_url", "rest", "grpc"),
    [
        ("http://host:8080", None, ("host", 8080, False), ("host", 50051, False)),
        ("http://host", None, ("host", 80, False), ("host", 50051, False)),
        ("https://host:8443/", None, ("host", 8443, True), ("host", 50051, True)),
        ("https://x.weaviate.cloud", None, ("x.weaviate.cloud", 443, True), ("grpc-x.weaviate.cloud", 443, True)),
        ("http://host:8080", "other:7000", ("host", 8080, False), ("other", 7000, False)),
        ("http://host:8080", "other", ("host", 8080, False), ("other", 50051, False)),
        ("https://host", "other:7000", ("host", 443, True), ("other", 7000, True)),
        ("https://host", "grpc://other:7000", ("host", 443, True), ("other", 7000, False)),
        ("http://host:8080", "grpcs://other", ("host", 8080, False), ("other", 443, True)),
        ("http://[::1]:8080", None, ("[::1]", 8080, False), ("[::1]", 50051, False)),
    ],
)
def test_grpc_follows_from_rest_unless_it_is_given(
    url: str, grpc_url: str | None, rest: tuple[str, int, bool], grpc: tuple[str, int, bool]
) -> None:
    rest_found = rest_address(url)
    grpc_found = grpc_address(grpc_url, rest_found)
    assert (rest_found.host, rest_found.port, rest_found.secure) == rest
    assert (grpc_found.host, grpc_found.port, grpc_found.secure) == grpc


@pytest.mark.parametrize(
    "url", ["", "host:8080", "ftp://host", "http://", "http://host:99999", "http://host:x", "http://host/path"]
)
def test_an_unusable_url_is_a_bad_setting(url: str) -> None:
    with pytest.raises(BadSettings, match="WEAVIATE_URL"):
        WeaviateStore(url, grpc_url=None, api_key=None, connect_timeout=1)


@pytest.mark.parametrize("grpc_url", ["ftp://host:1", "host:99999", "grpc://"])
def test_an_unusable_grpc_url_is_a_bad_setting(grpc_url: str) -> None:
    with pytest.raises(BadSettings, match="WEAVIATE_GRPC_URL"):
        WeaviateStore("http://host:8080", grpc_url=grpc_url, api_key=None, connect_timeout=1)


def test_one_address_for_both_is_a_bad_setting() -> None:
    with pytest.raises(BadSettings, match="the same"):
        WeaviateStore("http://host:50051", grpc_url=None, api_key=None, connect_timeout=1)


def test_a_password_in_the_url_stays_out_of_the_message() -> None:
    with pytest.raises(BadSettings) as caught:
        WeaviateStore("http://user:secret@host:x", grpc_url=None, api_key=None, connect_timeout=1)
    assert "secret" not in str(caught.value)
