"""A small web server on 127.0.0.1 that serves what a test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class WebServer(ThreadingHTTPServer):
    """``pages`` maps paths to what answers them; ``asked`` are the paths that were asked for, with their Host."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Answer] = {}
        self.asked: list[tuple[str, str]] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server_port

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """The address of a page."""
        return f"http://{host}:{self.port}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what some tests want."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, WebServer)
        self.server.asked.append((self.path, self.headers["Host"]))
        self.server.pages.get(self.path, answer(b"not here", status=404))(self)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def answer(body: bytes, *, status: int = 200, **headers: str) -> Answer:
    """A whole reply; ``content_type="text/html"`` becomes the header of that name."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def in_turn(*answers: Answer) -> Answer:
    """One after the other; the last one for good."""
    left = list(answers)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


@contextmanager
def web_server() -> Iterator[WebServer]:
    """A server for the time of the block."""
    with WebServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
