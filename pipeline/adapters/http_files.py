"""Documents from http and https URLs, within limits of size, time, redirects and addresses."""

from __future__ import annotations

import contextlib
import ssl
import time
import zlib
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpcore2
import httpx2

from pipeline.adapters.http_addresses import GuardedNetwork
from pipeline.adapters.http_faults import retry_after
from pipeline.errors import CeleriacError, RateLimited, ServerFault, TimedOut, Unreachable, UnreadableSource

MAX_REDIRECTS = 5
ATTEMPTS = 3
PAUSE = 0.5
"""Seconds before the second attempt; doubled before the third."""
_HEADERS = {"User-Agent": "Celeriac", "Accept": "*/*", "Accept-Encoding": "gzip"}
_PIECE = 1 << 16
_MEMBER = b"\x1f"
_FOREIGN = (
    httpx2.HTTPError,
    httpx2.InvalidURL,
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
)


class HttpFiles:
    """Reads URLs. Connects itself, never through a proxy: behind one, no address could be checked."""

    def __init__(self, *, connect_timeout: float, allow_private: bool) -> None:
        """Connects to nothing yet."""
        self._connect_timeout = connect_timeout
        self._allow_private = allow_private
        self._tls = httpx2.create_ssl_context()

    def find(self, url: str, *, timeout: float) -> Iterator[str]:
        """The URL itself: what a page links to is not followed."""
        return iter([url])

    @contextlib.contextmanager
    def open(self, url: str, *, max_bytes: int, timeout: float) -> Iterator[HttpDownload]:
        """Ask for ``url`` up to three times and read the reply; raises UnreadableSource with the status in its detail
        for a 4xx, and a retryable error for a service that is down, slow or busy.
        """
        network = GuardedNetwork(
            timeout=timeout, connect_timeout=self._connect_timeout, allow_private=self._allow_private
        )
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(_client(self._tls, network))
            try:
                reply = self._opened(url, client, network, stack)
                yield HttpDownload(url, reply, max_bytes)
            except _FOREIGN as error:
                raise _translated(url, error) from None

    def _opened(
        self, url: str, client: httpx2.Client, network: GuardedNetwork, stack: contextlib.ExitStack
    ) -> httpx2.Response:
        for attempt in range(ATTEMPTS):
            try:
                return _followed(url, client, stack)
            except (CeleriacError, *_FOREIGN) as error:
                failure = error if isinstance(error, CeleriacError) else _translated(url, error)
                asked = failure.retry_after if isinstance(failure, RateLimited) else None
                pause = PAUSE * 2**attempt if asked is None else asked
                if not failure.retryable or attempt == ATTEMPTS - 1 or pause >= network.left():
                    raise failure from None
            time.sleep(pause)
        raise AssertionError("unreachable")


class HttpDownload:
    """One reply while it comes in."""

    def __init__(self, url: str, reply: httpx2.Response, max_bytes: int) -> None:
        """Of a reply whose body is still to be read."""
        self._url = url
        self._reply = reply
        self._max_bytes = max_bytes

    @property
    def media_type(self) -> str:
        """The Content-Type without its parameters."""
        given: str = self._reply.headers.get("content-type", "")
        return given.partition(";")[0].strip().lower()

    def pieces(self) -> Iterator[bytes]:
        """The body, decompressed and counted so."""
        size = 0
        try:
            for piece in _decompressed(self._url, self._reply):
                size += len(piece)
                if size > self._max_bytes:
                    hint = "Raise the limit (docs/settings.md), or leave it out."
                    detail = {"status": self._reply.status_code}
                    raise UnreadableSource(f"{self._url} has more than {self._max_bytes:,} bytes.", hint, detail)
                yield piece
        except _FOREIGN as error:
            raise _translated(self._url, error) from None


def _decompressed(url: str, reply: httpx2.Response) -> Iterator[bytes]:
    """The body in pieces of bounded size, however far a packed one unfolds; only gzip was asked for."""
    coding = reply.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        yield from reply.iter_raw(_PIECE)
        return
    if coding not in ("gzip", "x-gzip"):
        raise UnreadableSource(f"{url} is packed as '{coding[:50]}', which it was not asked for.", "", {"status": 200})
    unpacker = zlib.decompressobj(wbits=31)
    for piece in reply.iter_raw(_PIECE):
        packed = piece
        while packed:
            if unpacker.eof:
                if not packed.startswith(_MEMBER):
                    break  # padding
                unpacker = zlib.decompressobj(wbits=31)  # RFC 1952, 2.2: one member may follow the other
            try:
                yield unpacker.decompress(packed, _PIECE)
            except zlib.error as error:
                raise UnreadableSource(f"{url} can't be decompressed: {error}.", "", {"status": 200}) from None
            packed = unpacker.unconsumed_tail or unpacker.unused_data
    if not unpacker.eof:
        raise ServerFault(f"{url} broke off inside its packed content.", "", {"status": 200})


def _client(tls: ssl.SSLContext, network: GuardedNetwork) -> httpx2.Client:
    return httpx2.Client(transport=_Transport(tls, network), headers=_HEADERS, trust_env=False)


class _Transport(httpx2.BaseTransport):
    """One connection after the other over a guarded network."""

    def __init__(self, tls: ssl.SSLContext, network: GuardedNetwork) -> None:
        self._pool = httpcore2.ConnectionPool(ssl_context=tls, max_connections=1, network_backend=network)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        reply = self._pool.handle_request(
            httpcore2.Request(
                request.method,
                httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                extensions=request.extensions,
            )
        )
        return httpx2.Response(
            reply.status, headers=reply.headers, stream=_Body(reply), extensions=reply.extensions, request=request
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx2.SyncByteStream):
    def __init__(self, reply: httpcore2.Response) -> None:
        self._reply = reply

    def __iter__(self) -> Iterator[bytes]:
        yield from self._reply.iter_stream()

    def close(self) -> None:
        self._reply.close()


def _followed(url: str, client: httpx2.Client, stack: contextlib.ExitStack) -> httpx2.Response:
    """The reply that is no redirect; each hop goes through the same guarded network."""
    here = httpx2.URL(url)
    for _ in range(MAX_REDIRECTS + 1):
        if here.scheme not in ("http", "https"):
            raise UnreadableSource(f"{url} leads to a '{here.scheme}' address.", "Only http and https are followed.")
        reply = client.send(client.build_request("GET", here), stream=True)
        if not reply.has_redirect_location:
            stack.callback(reply.close)
            if reply.status_code != 200:
                raise _status_fault(url, reply)
            return reply
        reply.close()
        here = here.join(reply.headers["location"])
    raise UnreadableSource(f"{url} leads through more than {MAX_REDIRECTS} redirects.", "Name the last address.")


def _status_fault(url: str, reply: httpx2.Response) -> CeleriacError:
    status = reply.status_code
    reply.close()
    detail = {"upstream": urlsplit(url).hostname or "", "status": status}
    message = f"{url} answered {status}."
    if status == 429:
        return RateLimited(message, "", detail | {"retry_after": retry_after(reply.headers)})
    if status in (408, 504):
        return TimedOut(message, "", detail)
    if status >= 500:
        return ServerFault(message, "", detail)
    hint = "Check the address, and that it can be read without signing in."
    return UnreadableSource(message, hint, detail)


def _translated(url: str, error: Exception) -> CeleriacError:
    detail = {"upstream": urlsplit(url).hostname or ""}
    cause = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    if isinstance(error, httpx2.TimeoutException | httpcore2.TimeoutException):
        return TimedOut(f"{url} was not read in time.", "", detail)
    if isinstance(error, httpx2.ConnectError | httpcore2.ConnectError):
        return Unreachable(f"{url} can't be reached: {cause}.", "Check the address.", detail)
    if isinstance(error, httpx2.InvalidURL | httpx2.UnsupportedProtocol | httpcore2.UnsupportedProtocol):
        return UnreadableSource(f"{url} is no address: {cause}.", "Check how it is written.", detail)
    return ServerFault(f"{url} broke off: {cause}.", "", detail)
