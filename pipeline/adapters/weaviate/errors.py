"""Weaviate's errors, of REST and of gRPC, in our terms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc
import httpx
from weaviate import exceptions as theirs

from pipeline.errors import (
    AuthenticationFailed,
    BadSettings,
    CeleriacError,
    RateLimited,
    RequestRejected,
    ServerFault,
    TimedOut,
    Unreachable,
    UpstreamError,
)

UPSTREAM: Final = {"upstream": "weaviate"}

_DOWN: Final = "Is it running, and are WEAVIATE_URL and WEAVIATE_GRPC_URL right? See `manage.py doctor`."
_SLOW: Final = "Weaviate is overloaded or hangs; look at its log."
_LARGE: Final = "message larger than max"
_LATE: Final = "context deadline exceeded"
_VAGUE: Final = {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN}

_BY_GRPC_CODE: Final[dict[grpc.StatusCode, type[UpstreamError]]] = {
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    grpc.StatusCode.CANCELLED: Unreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
    grpc.StatusCode.UNAUTHENTICATED: AuthenticationFailed,
    grpc.StatusCode.PERMISSION_DENIED: AuthenticationFailed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RateLimited,
    grpc.StatusCode.INVALID_ARGUMENT: RequestRejected,
    grpc.StatusCode.FAILED_PRECONDITION: RequestRejected,
    grpc.StatusCode.OUT_OF_RANGE: RequestRejected,
    grpc.StatusCode.NOT_FOUND: RequestRejected,
    grpc.StatusCode.ALREADY_EXISTS: RequestRejected,
    grpc.StatusCode.UNIMPLEMENTED: RequestRejected,
}
"""Any other code, UNKNOWN above all, which Weaviate gives to most of its own errors: ServerFault."""

_BY_TYPE: Final[tuple[tuple[type[Exception], type[UpstreamError]], ...]] = (
    (theirs.WeaviateTimeoutError, TimedOut),
    (httpx.TimeoutException, TimedOut),
    (theirs.WeaviateConnectionError, Unreachable),
    (theirs.WeaviateStartUpError, Unreachable),
    (theirs.WeaviateGRPCUnavailableError, Unreachable),
    (theirs.WeaviateClosedClientError, Unreachable),
    (httpx.TransportError, Unreachable),
    (theirs.AuthenticationFailedError, AuthenticationFailed),
    (theirs.WeaviateInvalidInputError, RequestRejected),
    (theirs.WeaviateUnsupportedFeatureError, RequestRejected),
)
"""Looked up in this order, after status codes; the rest of the client's errors: ServerFault."""

_HINTS: Final[dict[type[UpstreamError], str]] = {
    Unreachable: _DOWN,
    TimedOut: _SLOW,
    AuthenticationFailed: "Check WEAVIATE_API_KEY and the rights of its user.",
}


@contextmanager
def translating(address: str) -> Iterator[None]:
    """Turn the errors of REST requests to ``address`` into ours; gRPC's are turned by the channel."""
    try:
        yield
    except (theirs.WeaviateBaseError, httpx.HTTPError) as error:
        raise from_rest(error, address) from error


def from_rest(error: Exception, address: str) -> CeleriacError:
    """Our error for one of weaviate-client's or httpx's."""
    if isinstance(error, theirs.WeaviateStartUpError) and error.__cause__ is None:
        # Not a failure to connect: the client refuses servers older than 1.27 when it opens.
        return BadSettings(f"{address}: {one_line(error)}", "Upgrade Weaviate.", UPSTREAM)
    if isinstance(error, theirs.UnexpectedStatusCodeError):
        return _from_status(error.status_code, f"{address} answered {error.status_code}: {_said(error.error)}")
    if isinstance(error, theirs.ResponseCannotBeDecodedError):
        return failure(ServerFault, f"{address} sent a reply that is not JSON", status=error.status_code)
    kind = next((ours for type_, ours in _BY_TYPE if isinstance(error, type_)), ServerFault)
    return failure(kind, f"{address}: {_root(error)}")


def from_grpc(code: grpc.StatusCode, details: str, address: str, *, late: bool) -> UpstreamError:
    """Our error for the status of a gRPC call; ``late`` says that its deadline is over."""
    kind = _BY_GRPC_CODE.get(code, ServerFault)
    if kind is RateLimited and _LARGE in details:
        kind = RequestRejected
    # The server is told the deadline; where it notices first it cancels, or reports an error of its own.
    if (late and code in _VAGUE) or _LATE in details:
        kind = TimedOut
    hint = _DOWN if code is grpc.StatusCode.UNIMPLEMENTED else ""
    return failure(kind, f"gRPC on {address}: {details or code.name}", hint, grpc_code=code.name)


def failure(kind: type[UpstreamError], line: str, hint: str = "", **detail: str | int) -> UpstreamError:
    """An error of ``kind`` that names Weaviate, with the hint given or the one that fits ``kind``."""
    return kind(f"Weaviate: {one_line(line).rstrip('. ')}.", hint or _HINTS.get(kind, ""), UPSTREAM | detail)


def one_line(text: object) -> str:
    """What ``text`` says, on one line of at most 300 characters."""
    return " ".join(str(text).split())[:300]


def _from_status(status: int, line: str) -> UpstreamError:
    kind: type[UpstreamError]
    match status:
        case 401 | 403:
            kind = AuthenticationFailed
        case 408 | 504:
            kind = TimedOut
        case 429:
            kind = RateLimited
        case _ if 400 <= status < 500:
            kind = RequestRejected
        case _:
            kind = ServerFault
    return failure(kind, line, status=status)


def _said(body: object) -> str:
    """Weaviate's words in an error's body: ``{"message": …}`` or ``{"error": [{"message": …}]}``."""
    match body:
        case {"message": str(message)} | {"error": [{"message": str(message)}, *_]}:
            return message
        case _:
            return "nothing" if body is None else str(body)


def _root(error: BaseException) -> str:
    """The innermost cause, for the client's own words name no address and often no reason."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
