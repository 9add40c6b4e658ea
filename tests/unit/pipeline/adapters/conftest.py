from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.standin.scripted import Script, Scripted


@pytest.fixture
def scripted() -> Iterator[Callable[[Script], Scripted]]:
    """Starts such services."""
    started: list[Scripted] = []

    def start(script: Script) -> Scripted:
        started.append(Scripted(script))
        return started[-1]

    yield start
    for service in started:
        service.close()


HANGING_HEADERS: dict[str, Script] = {
    "102 again and again": [(0.2, b"HTTP/1.1 102 Processing\r\n\r\n")] * 200,
    "a header at a time": [(0.2, b"HTTP/1.1 200 OK\r\n"), *[(0.2, b"x-more: 1\r\n")] * 200],
}


@pytest.fixture(params=HANGING_HEADERS)
def hanging_headers(request: pytest.FixtureRequest, scripted: Callable[[Script], Scripted]) -> Scripted:
    """A service that says something all the time, and never completes the headers of its reply."""
    return scripted(HANGING_HEADERS[request.param])


@pytest.fixture
def hanging_refusal(scripted: Callable[[Script], Scripted]) -> Scripted:
    """A service that refuses by its status and says when to come back, but not why."""
    head = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 1000\r\n\r\n"
    return scripted([(0.0, head + b'{"error": ')])
