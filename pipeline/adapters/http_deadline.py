"""A deadline for reading one HTTP reply.

The read timeout of an HTTP client starts anew with every piece, so a service that drips, or stops just before the
end, holds a call far longer than allowed. Here the socket is shut down when the time is over, which wakes the reader
wherever it waits: in a thread or in a greenlet, with TLS or without.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from pipeline.adapters.http_faults import Call
from pipeline.errors import TimedOut


class Reply(Protocol):
    """A response of httpx or httpx2 whose body is still to be read."""

    @property
    def extensions(self) -> Mapping[str, Any]:
        """Holds ``network_stream``, the connection below."""


class Deadline:
    """The moment until which one call may last."""

    def __init__(self, call: Call, seconds: float) -> None:
        """``seconds`` from now."""
        self.call = call
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left; raises TimedOut where there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.timed_out()
        return left

    def timed_out(self) -> TimedOut:
        """The error that says so."""
        call = self.call
        return TimedOut(f"{call.upstream} gave no complete answer in {self.seconds:.3g} s.", "", call.detail())

    @contextlib.contextmanager
    def over(self, reply: Reply) -> Iterator[None]:
        """Read ``reply`` inside: at the deadline its socket is shut down.

        Whatever reading raises after that moment, or a body that just ends there, becomes TimedOut.
        """
        timer = threading.Timer(self.left(), _shut_down, [reply])
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception:
            self.left()
            raise
        finally:
            timer.cancel()
        self.left()


def _shut_down(reply: Reply) -> None:
    connection = reply.extensions["network_stream"].get_extra_info("socket")
    # Through a descriptor of its own: SSLSocket.shutdown would pull the TLS state from under the reader.
    with (
        contextlib.suppress(OSError, ValueError),  # it was closed a moment before
        socket.fromfd(connection.fileno(), connection.family, connection.type) as twin,
    ):
        twin.shutdown(socket.SHUT_RDWR)
