"""Connections to public addresses only, and none that lasts longer than its call may.

A URL may name a host whose address is this machine, a neighbour, or the metadata service of a cloud. A check of the
name before the request is not enough: the next lookup may give another address. Here the name is looked up once, and
what is connected to is the very address that was checked; TLS and the Host header still see the name.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpcore2

from pipeline.errors import UnreadableSource

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Registered for special use, and not known to every Python; 6to4 (2002::/16) was given up with RFC 7526.
_SPECIAL = [
    ipaddress.ip_network(net) for net in ("192.0.0.0/24", "64:ff9b:1::/48", "2002::/16", "3fff::/20", "5f00::/16")
]
_Lookup = list[str] | OSError | UnicodeError


class GuardedNetwork(httpcore2.NetworkBackend):
    """The network of one call."""

    def __init__(self, *, timeout: float, connect_timeout: float, allow_private: bool) -> None:
        """``timeout`` in seconds from now bounds all that goes over it."""
        self._end = time.monotonic() + timeout
        self._connect_timeout = connect_timeout
        self._allow_private = allow_private
        self._inner = httpcore2.SyncBackend()

    def left(self) -> float:
        """Seconds left; raises a timeout where there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("the time for it is over")
        return left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect to the first address of ``host`` that answers; raises UnreadableSource where one is not public."""
        addresses = _addresses(host, port, min(self.left(), self._connect_timeout))
        if not self._allow_private:
            _require_public(host, addresses)
        failure: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                limit = min(self.left(), self._connect_timeout)
                stream = self._inner.connect_tcp(address, port, limit, local_address, socket_options)
                return _Stream(stream, self.left)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure


class _Stream(httpcore2.NetworkStream):
    """A connection whose every wait ends with the call."""

    def __init__(self, inner: httpcore2.NetworkStream, left: Callable[[], float]) -> None:
        self._inner = inner
        self._left = left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._left())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, self._left()), self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address belongs to a host on the internet.

    An address that carries an IPv4 address (mapped, NAT64, Teredo) is judged by that one too.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        if found.is_site_local or not all(is_public(str(inner)) for inner in found.teredo or ()):
            return False
    if any(found in network for network in _SPECIAL):
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


def _require_public(host: str, addresses: list[str]) -> None:
    private = next((address for address in addresses if not is_public(address)), None)
    if private is not None:
        where = host if host == private else f"{host} ({private})"
        hint = "Set CELERIAC_ALLOW_PRIVATE_ADDRESSES=true for the workers if that is meant."
        raise UnreadableSource(f"{where} is not a public address.", hint, {"address": private})


def _addresses(host: str, port: int, timeout: float) -> list[str]:
    """The addresses of a host. The resolver of the system takes no time limit, so it is waited for in a thread."""
    answer: queue.SimpleQueue[_Lookup] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer.put([str(entry[4][0]) for entry in found])
        except (OSError, UnicodeError) as error:
            answer.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        found = answer.get(timeout=timeout)
    except queue.Empty:
        raise httpcore2.ConnectTimeout(f"the address of {host} was not found in time") from None
    if isinstance(found, Exception):
        raise httpcore2.ConnectError(f"the address of {host} can't be found") from None
    return list(dict.fromkeys(found))
