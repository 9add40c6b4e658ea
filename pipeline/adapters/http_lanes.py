"""A transport for hundreds of concurrent requests of one process, in threads or in greenlets.

The pool of httpx probes every idle connection, one poll each, whenever a request starts or ends, and holds the lock
of the whole pool meanwhile. In a process patched by gevent each of these polls gives way to other greenlets: with 100
questions in flight an embedding that the service gave in 30 ms took 700 ms. Here every connection has a pool of its
own, so that a request probes one connection, its own, and waits for nobody.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from urllib.request import getproxies

import httpx2

from pipeline.adapters.http_line import Line, current_line, has_unread

_END_OF_CHUNK = b"\r\n"
_CONNECTS = ".connect_tcp.started"
_SENT = ".send_request_body.complete"
_CONNECTED = (".connect_tcp.complete", ".start_tls.complete")

KEEP_ALIVE_SECONDS = 30.0
AT_HAND = "at_hand"
"""The extension of a response that tells, when called, whether more of its body has arrived already."""


def make_transport() -> httpx2.BaseTransport | None:
    """Lanes; or None, the client's own transport, where the environment names a proxy: only that one knows them."""
    return None if getproxies().keys() & {"http", "https", "all"} else Lanes()


class Lanes(httpx2.BaseTransport):
    """As many connections as there are requests at once; each is kept for the next request."""

    def __init__(self) -> None:
        """Connects to nothing yet."""
        self._tls = httpx2.create_ssl_context()
        self._idle: deque[tuple[float, _Lane]] = deque()
        self._lock = threading.Lock()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it on the connection that was used last; the lane is free again when the response is closed."""
        lane = self._take()
        try:
            response = lane.send(request, current_line())
        except BaseException:
            lane.close()
            raise
        response.extensions[AT_HAND] = lane.at_hand
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _LaneStream(response.stream, lambda: self._give_back(lane))
        return response

    def close(self) -> None:
        """Close the idle connections; those in use are closed when their responses are."""
        with self._lock:
            lanes, self._idle = self._idle, deque()
        for _, lane in lanes:
            lane.close()

    def _take(self) -> _Lane:
        with self._lock:
            if self._idle:
                return self._idle.pop()[1]
        limits = httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE_SECONDS)
        return _Lane(httpx2.HTTPTransport(verify=self._tls, limits=limits))

    def _give_back(self, lane: _Lane) -> None:
        lane.leave()
        now = time.monotonic()
        expired = []
        with self._lock:
            self._idle.append((now, lane))
            while now - self._idle[0][0] > KEEP_ALIVE_SECONDS:
                expired.append(self._idle.popleft()[1])
        for old in expired:
            old.close()


class _Lane:
    """A transport with at most one connection, which it knows."""

    def __init__(self, transport: httpx2.HTTPTransport) -> None:
        self._transport = transport
        self._stream: Any = None
        self._line: Line | None = None

    def send(self, request: httpx2.Request, line: Line | None) -> httpx2.Response:
        self._line = line
        if line is not None:
            request.extensions["trace"] = self._trace  # nothing else tells a new connection before the reply is there
            if self._stream is not None:
                line.join(self._stream)
        response = self._transport.handle_request(request)
        self._stream = response.extensions["network_stream"]
        return response

    def at_hand(self) -> bool:
        """Whether more of the body has arrived. The client has no word for that, so its parts are looked at."""
        connections: list[Any] = self._transport._pool.connections
        if not connections:
            return False
        unparsed, _ = connections[0]._connection._h11_state.trailing_data
        return len(unparsed) > len(_END_OF_CHUNK) or has_unread(self._stream)

    def leave(self) -> None:
        if self._line is not None:
            self._line.leave()
            self._line = None

    def close(self) -> None:
        self.leave()
        self._transport.close()

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        if self._line is None:
            return
        if event.endswith(_CONNECTS):
            self._line.leave()  # the connection that was kept has ended meanwhile
        elif event.endswith(_CONNECTED):
            self._line.join(info["return_value"])
        elif event.endswith(_SENT):
            self._line.is_asked = True


class _LaneStream(httpx2.SyncByteStream):
    """A body that frees its lane when it is closed."""

    def __init__(self, body: httpx2.SyncByteStream, free: Callable[[], None]) -> None:
        self._body = body
        self._free: Callable[[], None] | None = free

    def __iter__(self) -> Iterator[bytes]:
        yield from self._body

    def close(self) -> None:
        self._body.close()
        free, self._free = self._free, None
        if free is not None:
            free()
