"""One Weaviate client per process, and a deadline for every call.

weaviate-client knows timeouts per client only, and answers an unreachable gRPC port by sleeping and
trying again for a minute. Both are mended at the two places where its constructor takes objects:

- the timeouts it reads before each request are computed from the deadline of the call at hand;
- its gRPC channel gets an interceptor that raises our errors, which the client's retry lets through.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import grpc
from grpc import Channel
from pydantic import PrivateAttr
from weaviate import WeaviateClient
from weaviate.auth import Auth
from weaviate.config import AdditionalConfig, GrpcConfig, Timeout
from weaviate.connect.base import ConnectionParams
from weaviate.proto.v1 import health_weaviate_pb2 as health
from weaviate.proto.v1 import search_get_pb2 as searching

from pipeline.adapters.weaviate.addresses import grpc_address, rest_address
from pipeline.adapters.weaviate.errors import failure, from_grpc, translating
from pipeline.errors import BadSettings, ServerFault, TimedOut, Unreachable

_deadline: ContextVar[float] = ContextVar("weaviate_deadline")

_SHORTEST: Final = 0.001
_RECONNECT: Final = 1.0


class Connection:
    """Hands out the process's client. Safe to share among threads and greenlets, and to carry over a fork."""

    def __init__(self, url: str, *, grpc_url: str | None, api_key: str | None, connect_timeout: float) -> None:
        """Open nothing yet. Raises BadSettings where an address makes no sense."""
        rest = rest_address(url)
        grpc_ = grpc_address(grpc_url, rest)
        try:
            self._params = _Params(http=rest, grpc=grpc_)
        except ValueError:
            raise BadSettings(
                "Weaviate's REST and gRPC addresses are the same.", "Set WEAVIATE_GRPC_URL, mostly port 50051."
            ) from None
        self._api_key = api_key
        self._connect_timeout = connect_timeout
        # By process id: neither a client nor a lock that a thread held survives a fork, and dropping
        # the parent's client in the child would close sockets that the parent still uses.
        self._locks: dict[int, threading.Lock] = {}
        self._clients: dict[int, WeaviateClient] = {}

    @contextmanager
    def call(self, timeout: float) -> Iterator[WeaviateClient]:
        """The client, for calls that together end within ``timeout`` seconds and raise our errors.

        gRPC calls keep to it exactly. A REST request (schema and version only) gets the time that is
        left for its reply, and up to 5 s more, fixed in weaviate-client, for opening a socket.
        """
        token = _deadline.set(time.monotonic() + timeout)
        try:
            with translating(self._params._http_url):
                yield self._client()
        finally:
            _deadline.reset(token)

    def check_grpc(self) -> None:
        """Ask the gRPC health service, within :meth:`call`; raises our errors."""
        ask = self._params.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health.WeaviateHealthCheckRequest.SerializeToString,
            response_deserializer=health.WeaviateHealthCheckResponse.FromString,
        )
        reply = ask(health.WeaviateHealthCheckRequest(), timeout=_time_left())
        if reply.status != health.WeaviateHealthCheckResponse.SERVING:
            raise failure(Unreachable, f"gRPC on {self._params._grpc_target} does not serve")

    def search(self, request: searching.SearchRequest) -> searching.SearchReply:
        """Send a search as it is, within :meth:`call`; raises our errors. The client's own way to build a request and
        to unpack its reply takes three times the processor time.
        """
        send = self._params.channel.unary_unary(
            "/weaviate.v1.Weaviate/Search",
            request_serializer=searching.SearchRequest.SerializeToString,
            response_deserializer=searching.SearchReply.FromString,
        )
        metadata = (("authorization", f"Bearer {self._api_key}"),) if self._api_key else None
        reply: searching.SearchReply = send(request, timeout=_time_left(), metadata=metadata)
        return reply

    def close(self) -> None:
        """Close this process's client; a later call opens another."""
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()

    def _client(self) -> WeaviateClient:
        process = os.getpid()
        client = self._clients.get(process)
        if client is None:
            lock = self._locks.setdefault(process, threading.Lock())
            # Those who wait while another opens in vain must not queue up beyond their own deadlines.
            if not lock.acquire(timeout=_time_left()):
                raise failure(TimedOut, f"{self._params._http_url}: no connection in time")
            try:
                client = self._clients.get(process) or self._clients.setdefault(process, self._open())
            finally:
                lock.release()
        return client

    def _open(self) -> WeaviateClient:
        client = WeaviateClient(
            connection_params=self._params,
            auth_client_secret=Auth.api_key(self._api_key) if self._api_key else None,
            additional_config=AdditionalConfig(
                timeout=_TimeLeft(), grpc_config=GrpcConfig(channel_options=_channel_options(self._connect_timeout))
            ),
            # They would ask a public package index for the client's newest version.
            skip_init_checks=True,
        )
        token = _deadline.set(min(_deadline.get(), time.monotonic() + self._connect_timeout))
        try:
            client.connect()
        except BaseException as error:
            client.close()
            if isinstance(error, KeyError | TypeError):  # JSON without a version
                raise failure(ServerFault, f"what answers at {self._params._http_url} is something else") from error
            raise
        finally:
            _deadline.reset(token)
        return client


class _TimeLeft(Timeout):
    """Timeouts that the client reads before each request: what is left of the call's deadline."""

    def __getattribute__(self, name: str) -> Any:
        if name in {"query", "insert", "init"}:
            return _time_left()
        return super().__getattribute__(name)


class _Params(ConnectionParams):
    """Addresses of a server; makes channels that raise our errors."""

    _channel: Channel = PrivateAttr()

    @property
    def channel(self) -> Channel:
        """The channel made last."""
        return self._channel

    def _grpc_channel(self, *args: Any, **kwargs: Any) -> Channel:
        channel = super()._grpc_channel(*args, **kwargs)
        assert isinstance(channel, Channel)  # not asyncio's
        self._channel = grpc.intercept_channel(channel, _RaisesOurErrors(self._grpc_target))
        return self._channel


class _RaisesOurErrors(grpc.UnaryUnaryClientInterceptor):
    def __init__(self, address: str) -> None:
        self._address = address

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, request)
        if call.exception() is None:
            return call
        if _is_unavailable(call) and _time_left() > _SHORTEST:
            again = continuation(_patient(details), request)
            # That it had no answer in that time says less than why there was none at first.
            call = call if again.exception() is not None and not _is_unavailable(again) else again
        error = call.exception()
        if error is None:
            return call
        if isinstance(error, grpc.RpcError):
            late = time.monotonic() >= _deadline.get()
            raise from_grpc(call.code(), call.details() or "", self._address, late=late) from error
        if isinstance(error, ValueError):  # "Cannot invoke RPC on closed channel!"
            raise failure(Unreachable, "the connection was closed in the middle of a call") from error
        raise error


def _is_unavailable(call: Any) -> bool:
    return isinstance(call.exception(), grpc.RpcError) and call.code() is grpc.StatusCode.UNAVAILABLE


def _patient(details: Any) -> Any:
    """The same call, which waits a moment for a connection. gRPC gets on with making one only while somebody waits:
    after an outage calls that fail at once, some seconds apart, would go on failing for half a minute.
    """
    return details._replace(wait_for_ready=True, timeout=min(_RECONNECT, _time_left()))


def _time_left() -> float:
    return max(_deadline.get() - time.monotonic(), _SHORTEST)


def _channel_options(connect_timeout: float) -> list[tuple[str, int]]:
    milliseconds = round(connect_timeout * 1000)
    return [
        # The pool that channels share otherwise is, in a forked child, full of the parent's connections.
        ("grpc.use_local_subchannel_pool", 1),
        # Found again soon after a restart: gRPC's own pause between attempts grows to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.min_reconnect_backoff_ms", milliseconds),
        # Weaviate bears a ping every 5 minutes. What matters is that keepalive also makes the kernel
        # give up a connection whose bytes nobody acknowledges within the timeout (a host that vanished).
        ("grpc.keepalive_time_ms", 310_000),
        ("grpc.keepalive_timeout_ms", milliseconds),
    ]
