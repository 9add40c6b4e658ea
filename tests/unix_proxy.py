"""A server on a Unix socket behind a door that a test can shut."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from pathlib import Path


class UnixProxy:
    """Passes bytes between clients of ``path`` and the server at ``target``, while open."""

    def __init__(self, target: Path, path: Path) -> None:
        self._target = target
        self._path = path
        self._listening: socket.socket | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

    def open(self) -> None:
        """Accept clients."""
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self._path))
        self._listening.listen()
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def shut(self) -> None:
        """Refuse clients, and cut off those that are there."""
        self._path.unlink(missing_ok=True)
        for end in [self._listening, *(end for pair in self._pairs for end in pair)]:
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def _accept(self, listening: socket.socket) -> None:
        with listening, contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._target))
                self._pairs.append((client, server))
                threading.Thread(target=_pass_on, args=(client, server), daemon=True).start()


def _pass_on(client: socket.socket, server: socket.socket) -> None:
    others = {client: server, server: client}
    with client, server, selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
        for end in others:
            selector.register(end, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                end: socket.socket = key.fileobj  # type: ignore[assignment]
                data = end.recv(65536)
                if not data:
                    return
                others[end].sendall(data)
