from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from pipeline.adapters.http_files import HttpFiles
from pipeline.errors import CeleriacError, RateLimited, ServerFault, TimedOut, Unreachable, UnreadableSource
from tests.web_server import WebServer, answer, in_turn, web_server


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture(scope="module")
def files() -> HttpFiles:
    return HttpFiles(connect_timeout=2, allow_private=True)


@pytest.fixture(scope="module")
def careful() -> HttpFiles:
    return HttpFiles(connect_timeout=2, allow_private=False)


def read(files: HttpFiles, url: str, *, max_bytes: int = 10**6, timeout: float = 10) -> tuple[str, bytes]:
    with files.open(url, max_bytes=max_bytes, timeout=timeout) as download:
        return download.media_type, b"".join(download.pieces())


def test_a_page_comes_with_its_media_type(files: HttpFiles, web: WebServer) -> None:
    web.pages["/a"] = answer("Größe".encode(), content_type="Text/HTML; charset=utf-8")
    assert read(files, web.url("/a")) == ("text/html", "Größe".encode())


def test_redirects_are_followed_and_bounded(files: HttpFiles, web: WebServer) -> None:
    web.pages["/from"] = answer(b"", status=302, location="/to")
    web.pages["/to"] = answer(b"there")
    web.pages["/round"] = answer(b"", status=301, location="/round")
    assert read(files, web.url("/from"))[1] == b"there"
    with pytest.raises(UnreadableSource, match="more than 5 redirects"):
        read(files, web.url("/round"))


def test_a_redirect_to_another_scheme_is_refused(files: HttpFiles, web: WebServer) -> None:
    web.pages["/file"] = answer(b"", status=302, location="file:///etc/hostname")
    with pytest.raises(UnreadableSource, match="leads to a 'file' address"):
        read(files, web.url("/file"))


def test_what_is_too_long_is_given_up_unread(files: HttpFiles, web: WebServer) -> None:
    web.pages["/long"] = answer(b"x" * 5_000_000)
    with pytest.raises(UnreadableSource, match="more than 1,000,000 bytes"):
        read(files, web.url("/long"))


def test_all_members_of_a_packed_file_are_read_and_padding_is_not(files: HttpFiles, web: WebServer) -> None:
    members = gzip.compress(b"first ") + gzip.compress(b"second " * 20_000) + gzip.compress(b"third")
    web.pages["/members"] = answer(members + bytes(7), content_encoding="gzip")
    assert read(files, web.url("/members"))[1] == b"first " + b"second " * 20_000 + b"third"


def test_a_packed_page_is_unpacked_and_counted_so(files: HttpFiles, web: WebServer) -> None:
    web.pages["/packed"] = answer(gzip.compress(b"text" * 1000), content_encoding="gzip")
    web.pages["/bomb"] = answer(gzip.compress(b"0" * 50_000_000), content_encoding="gzip")
    assert read(files, web.url("/packed"))[1] == b"text" * 1000
    with pytest.raises(UnreadableSource, match="more than 1,000,000 bytes"):
        read(files, web.url("/bomb"))


@pytest.mark.parametrize(
    ("coding", "body", "kind", "cause"),
    [
        ("gzip", b"no gzip", UnreadableSource, "can't be decompressed"),
        ("gzip", gzip.compress(b"x" * 1000)[:-9], ServerFault, "broke off inside"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"x")), UnreadableSource, "packed as 'gzip, gzip'"),
    ],
    ids=["no gzip", "broken off", "packed twice"],
)
def test_a_page_that_cannot_be_unpacked_says_so(
    files: HttpFiles, web: WebServer, coding: str, body: bytes, kind: type[CeleriacError], cause: str
) -> None:
    web.pages["/odd"] = answer(body, content_encoding=coding)
    with pytest.raises(kind, match=cause):
        read(files, web.url("/odd"))


@pytest.mark.parametrize("where", ["before the headers", "inside the headers", "inside the body"])
def test_a_server_that_drips_is_left_when_the_time_is_over(files: HttpFiles, web: WebServer, where: str) -> None:
    over = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        if where != "before the headers":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nX-Long: ")
        if where == "inside the body":
            handler.wfile.write(b"x\r\n\r\n")
        while not over.wait(0.05):
            handler.wfile.write(b"" if where == "before the headers" else b"x")

    web.pages["/slow"] = drip
    begun = time.monotonic()
    try:
        with pytest.raises(TimedOut):
            read(files, web.url("/slow"), timeout=0.6)
    finally:
        over.set()
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_has_its_status_and_is_not_repeated(files: HttpFiles, web: WebServer, status: int) -> None:
    path = f"/refused{status}"
    web.pages[path] = answer(b"", status=status)
    with pytest.raises(UnreadableSource, match=f"answered {status}") as caught:
        read(files, web.url(path))
    assert caught.value.detail["status"] == status
    assert [asked for asked, _ in web.asked].count(path) == 1


def test_a_fault_that_passes_is_not_noticed(files: HttpFiles, web: WebServer) -> None:
    web.pages["/shaky"] = in_turn(answer(b"", status=503), answer(b"", status=429, retry_after="0"), answer(b"well"))
    assert read(files, web.url("/shaky"))[1] == b"well"


@pytest.mark.parametrize(("status", "kind"), [(500, ServerFault), (504, TimedOut)])
def test_a_fault_that_stays_is_retryable(
    files: HttpFiles, web: WebServer, status: int, kind: type[CeleriacError]
) -> None:
    web.pages["/down"] = answer(b"", status=status)
    with pytest.raises(kind) as caught:
        read(files, web.url("/down"), timeout=20)
    assert caught.value.retryable
    assert caught.value.detail["status"] == status


def test_a_wait_that_is_asked_for_and_too_long_is_passed_on(files: HttpFiles, web: WebServer) -> None:
    web.pages["/busy"] = answer(b"", status=429, retry_after="60")
    with pytest.raises(RateLimited) as caught:
        read(files, web.url("/busy"))
    assert caught.value.retry_after == 60


def test_nobody_there_is_unreachable(files: HttpFiles, web: WebServer) -> None:
    with pytest.raises(Unreachable, match="can't be reached"):
        read(files, "http://127.0.0.1:1/", timeout=1)
    with pytest.raises(Unreachable, match=r"the address of nowhere\.invalid can't be found"):
        read(files, "http://nowhere.invalid/", timeout=1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "2130706433", "[::1]", "[::ffff:127.0.0.1]"])
def test_no_private_address_is_connected_to_however_it_is_spelled(
    careful: HttpFiles, web: WebServer, host: str
) -> None:
    web.asked.clear()
    with pytest.raises(UnreadableSource, match=r"not a public address.*CELERIAC_ALLOW_PRIVATE_ADDRESSES"):
        read(careful, web.url("/a", host))
    assert web.asked == []


def test_the_address_that_was_checked_is_the_one_connected_to(
    web: WebServer, files: HttpFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that gives another address with each lookup is looked up once; the server still hears the name."""
    lookups = []
    honest = socket.getaddrinfo

    def rebinding(host: str, port: int, *how: int, **more: int) -> object:
        if host != "rebinding.test":
            return honest(host, port, *how, **more)
        lookups.append(host)
        address = "127.0.0.1" if len(lookups) == 1 else "127.0.0.66"
        return [(2, 1, 6, "", (address, port))]

    monkeypatch.setattr("pipeline.adapters.http_addresses.socket.getaddrinfo", rebinding)
    web.pages["/named"] = answer(b"ok")
    assert read(files, f"http://rebinding.test:{web.port}/named")[1] == b"ok"
    assert lookups == ["rebinding.test"]
    assert web.asked[-1] == ("/named", f"rebinding.test:{web.port}")


def test_a_redirect_to_a_private_address_is_refused(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first hop counts as public here; the second doesn't."""
    from pipeline.adapters import http_addresses

    honest = http_addresses.is_public
    monkeypatch.setattr(http_addresses, "is_public", lambda address: address == "127.0.0.1" or honest(address))
    web.pages["/lure"] = answer(b"", status=302, location=web.url("/secret", "127.0.0.2"))
    with pytest.raises(UnreadableSource, match=r"127\.0\.0\.2 is not a public address"):
        read(HttpFiles(connect_timeout=2, allow_private=False), web.url("/lure"))
