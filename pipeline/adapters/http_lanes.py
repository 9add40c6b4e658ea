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
from urllib.request import getproxies

import httpx2

KEEP_ALIVE_SECONDS = 30.0


def make_transport() -> httpx2.BaseTransport | None:
    """Lanes; or None, the client's own transport, where the environment names a proxy: only that one knows them."""
    return None if getproxies().keys() & {"http", "https", "all"} else Lanes()


class Lanes(httpx2.BaseTransport):
    """As many connections as there are requests at once; each is kept for the next request."""

    def __init__(self) -> None:
        """Connects to nothing yet."""
        self._tls = httpx2.create_ssl_context()
        self._idle: deque[tuple[float, httpx2.HTTPTransport]] = deque()
        self._lock = threading.Lock()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it on the connection that was used last; the lane is free again when the response is closed."""
        lane = self._take()
        try:
            response = lane.handle_request(request)
        except BaseException:
            lane.close()
            raise
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _LaneStream(response.stream, lambda: self._give_back(lane))
        return response

    def close(self) -> None:
        """Close the idle connections; those in use are closed when their responses are."""
        with self._lock:
            lanes, self._idle = self._idle, deque()
        for _, lane in lanes:
            lane.close()

    def _take(self) -> httpx2.HTTPTransport:
        with self._lock:
            if self._idle:
                return self._idle.pop()[1]
        limits = httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE_SECONDS)
        return httpx2.HTTPTransport(verify=self._tls, limits=limits)

    def _give_back(self, lane: httpx2.HTTPTransport) -> None:
        now = time.monotonic()
        expired = []
        with self._lock:
            self._idle.append((now, lane))
            while now - self._idle[0][0] > KEEP_ALIVE_SECONDS:
                expired.append(self._idle.popleft()[1])
        for old in expired:
            old.close()


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
