"""Weaviate's errors in our terms: those that no server here can be brought to give."""

from __future__ import annotations

import grpc
import httpx
import pytest
from weaviate import exceptions as theirs

from pipeline.adapters.weaviate.errors import from_grpc, translating
from pipeline.errors import (
    AuthenticationFailed,
    CeleriacError,
    RateLimited,
    RequestRejected,
    ServerFault,
    TimedOut,
    Unreachable,
    UpstreamError,
)

ADDRESS = "http://host:8080"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unreachable),
        (grpc.StatusCode.CANCELLED, Unreachable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, TimedOut),
        (grpc.StatusCode.UNAUTHENTICATED, AuthenticationFailed),
        (grpc.StatusCode.PERMISSION_DENIED, AuthenticationFailed),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, RateLimited),
        (grpc.StatusCode.INVALID_ARGUMENT, RequestRejected),
        (grpc.StatusCode.UNIMPLEMENTED, RequestRejected),
        (grpc.StatusCode.UNKNOWN, ServerFault),
        (grpc.StatusCode.INTERNAL, ServerFault),
        (grpc.StatusCode.DATA_LOSS, ServerFault),
    ],
)
def test_a_grpc_status_decides_the_kind(code: grpc.StatusCode, kind: type[UpstreamError]) -> None:
    error = from_grpc(code, "some\nreason.", "host:50051", late=False)
    assert type(error) is kind
    assert error.message == "Weaviate: gRPC on host:50051: some reason."
    assert error.detail == {"upstream": "weaviate", "grpc_code": code.name}


def test_a_message_too_large_is_no_call_for_patience() -> None:
    details = "SERVER: Received message larger than max (2 vs. 1)"
    assert type(from_grpc(grpc.StatusCode.RESOURCE_EXHAUSTED, details, "h:1", late=False)) is RequestRejected


@pytest.mark.parametrize("code", [grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN])
def test_a_vague_status_after_the_deadline_is_a_timeout(code: grpc.StatusCode) -> None:
    assert type(from_grpc(code, "stream reset", "h:1", late=True)) is TimedOut


def test_a_deadline_that_the_server_noticed_first_is_a_timeout() -> None:
    error = from_grpc(grpc.StatusCode.UNKNOWN, "search: context deadline exceeded", "h:1", late=False)
    assert type(error) is TimedOut


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, AuthenticationFailed),
        (403, AuthenticationFailed),
        (404, RequestRejected),
        (408, TimedOut),
        (422, RequestRejected),
        (429, RateLimited),
        (500, ServerFault),
        (503, ServerFault),
        (504, TimedOut),
    ],
)
def test_an_http_status_decides_the_kind(status: int, kind: type[UpstreamError]) -> None:
    reply = httpx.Response(status, json={"error": [{"message": "a\nreason"}]})
    error = _translated(theirs.UnexpectedStatusCodeError("Create collection", reply))
    assert type(error) is kind
    assert error.message == f"Weaviate: {ADDRESS} answered {status}: a reason."
    assert error.detail == {"upstream": "weaviate", "status": status}


@pytest.mark.parametrize(
    ("foreign", "kind"),
    [
        (theirs.WeaviateTimeoutError(), TimedOut),
        (httpx.ConnectTimeout("slow"), TimedOut),
        (httpx.PoolTimeout("slow"), TimedOut),
        (theirs.WeaviateConnectionError(), Unreachable),
        (theirs.WeaviateGRPCUnavailableError(), Unreachable),
        (theirs.WeaviateClosedClientError(), Unreachable),
        (httpx.ReadError("reset"), Unreachable),
        (httpx.RemoteProtocolError("cut off"), Unreachable),
        (theirs.AuthenticationFailedError("no"), AuthenticationFailed),
        (theirs.InsufficientPermissionsError(httpx.Response(403)), AuthenticationFailed),
        (theirs.WeaviateInvalidInputError("no"), RequestRejected),
        (theirs.WeaviateQueryError("no", "GRPC search"), ServerFault),
        (theirs.EmptyResponseError("no"), ServerFault),
        (theirs.ResponseCannotBeDecodedError("meta", httpx.Response(200, text="<html>")), ServerFault),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_an_error_of_the_client_decides_the_kind(foreign: Exception, kind: type[UpstreamError]) -> None:
    error = _translated(foreign)
    assert type(error) is kind
    assert error.detail["upstream"] == "weaviate"
    assert "\n" not in error.message


def test_the_innermost_cause_is_what_the_message_tells() -> None:
    outer = theirs.WeaviateConnectionError("")
    outer.__cause__ = httpx.ConnectError("[Errno 111] Connection refused")
    assert _translated(outer).message == f"Weaviate: {ADDRESS}: [Errno 111] Connection refused."


def _translated(foreign: Exception) -> CeleriacError:
    with pytest.raises(CeleriacError) as caught, translating(ADDRESS):
        raise foreign
    return caught.value
