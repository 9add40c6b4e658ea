"""The connection under one HTTP call, which another thread may cut at any moment, also before the reply begins.

A call that waits for the first byte can't be closed from another thread: the client has not handed out a reply yet, and
closing a socket wakes nobody who reads from it. Shutting it down does, and the service sees the connection end.
"""

from __future__ import annotations

import fcntl
import socket
import termios
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Protocol


class Reply(Protocol):
    """A response of httpx or httpx2 whose body is still to be read."""

    @property
    def extensions(self) -> Mapping[str, Any]:
        """Holds ``network_stream``, the connection below."""


class Line:
    """What one call runs over. Once cut it stays so: a connection that comes later is shut down as it comes."""

    def __init__(self) -> None:
        """No connection yet."""
        self._lock = threading.Lock()
        self._stream: Any = None
        self._is_cut = False
        self.is_asked = False
        """Whether the whole request has been sent. Another transport than ``http_lanes`` doesn't tell."""
        self.on_join: Callable[[], None] | None = None
        """Called for each connection that the call runs over."""

    @property
    def is_joined(self) -> bool:
        """Whether there is a connection to cut."""
        return self._stream is not None

    @property
    def has_unread(self) -> bool:
        """Whether something has come that nobody has read yet."""
        stream = self._stream
        return stream is not None and has_unread(stream)

    def cut(self) -> None:
        """Shut the connection down, now or as soon as there is one."""
        with self._lock:
            self._is_cut = True
            if self._stream is not None:
                shut_down(self._stream)

    def join(self, stream: Any) -> None:
        """The call runs over this network stream now."""
        with self._lock:
            self._stream = stream
            if self._is_cut:
                shut_down(stream)
        if self.on_join is not None:
            self.on_join()

    def leave(self) -> None:
        """The call is done with its connection, which may serve another one next."""
        with self._lock:
            self._stream = None

    @contextmanager
    def dialling(self) -> Iterator[None]:
        """A request sent inside, by this thread and through ``http_lanes``, runs over this line from its first byte."""
        token = _dialling.set(self)
        try:
            yield
        finally:
            _dialling.reset(token)

    @contextmanager
    def over(self, reply: Reply) -> Iterator[None]:
        """``reply`` is read inside; needed where the request went through another transport."""
        self.join(reply.extensions["network_stream"])
        try:
            yield
        finally:
            self.leave()


def current_line() -> Line | None:
    """The line of whoever sends a request in this thread or greenlet."""
    return _dialling.get()


def has_unread(stream: Any) -> bool:
    """Whether the system holds bytes for this connection. Asked so it never gives way to others, as a poll does."""
    try:
        return any(fcntl.ioctl(stream.get_extra_info("socket"), termios.FIONREAD, bytes(4)))
    except (OSError, ValueError):  # it is closed
        return False


def shut_down(stream: Any) -> None:
    """End the connection below a network stream of httpcore, which whoever waits for it notices at once."""
    connection = stream.get_extra_info("socket")
    # Through a descriptor of its own: SSLSocket.shutdown would pull the TLS state from under the reader.
    with (
        suppress(OSError, ValueError),  # it was closed a moment before
        socket.fromfd(connection.fileno(), connection.family, connection.type) as twin,
    ):
        twin.shutdown(socket.SHUT_RDWR)


_dialling: ContextVar[Line | None] = ContextVar("line", default=None)
