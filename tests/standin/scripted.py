"""A service that misbehaves below HTTP."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time

Script = list[tuple[float, bytes]]


class Scripted:
    """A service that gives every request the same bytes, each piece after so many seconds, and then waits for the next
    one. For what no well-behaved server can be told to do.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.host = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while _request(connection):
                for pause, piece in self.script:
                    time.sleep(pause)
                    connection.sendall(piece)


def _request(connection: socket.socket) -> bytes:
    """One whole request; b"" where there is none any more."""
    read = b""
    while b"\r\n\r\n" not in read:
        piece = connection.recv(65536)
        if not piece:
            return b""
        read += piece
    head, _, body = read.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while length and len(body) < int(length[1]):
        piece = connection.recv(65536)
        if not piece:
            return b""
        body += piece
    return head + body
