from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.adapters.http_deadline import Deadline
from pipeline.adapters.http_faults import Call
from pipeline.adapters.http_line import Line
from pipeline.errors import TimedOut
from pipeline.silence import ENOUGH, Silence, Waiting, hurrying

BOUND = 1.5


class Stream:
    """A connection as an HTTP client shows it."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()

    def get_extra_info(self, _name: str) -> Any:
        return self.ours

    def heard(self) -> bytes:
        """What comes, or nothing at its end."""
        return self.ours.recv(100)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def stream() -> Iterator[Stream]:
    found = Stream()
    yield found
    found.close()


@pytest.fixture
def line(stream: Stream) -> Line:
    found = Line()
    found.join(stream)
    return found


@pytest.fixture
def deadline() -> Deadline:
    return Deadline(Call("service", "model"), 10.0)


@pytest.fixture
def waiting() -> Waiting:
    """For a call that is given up after a short silence."""
    silence = Silence(15.0, BOUND)
    for _ in range(ENOUGH):
        silence.heard(0.0)
    with hurrying(10.0):
        return Waiting(silence)


def test_a_silent_call_is_cut_early(stream: Stream, line: Line, deadline: Deadline, waiting: Waiting) -> None:
    with (
        pytest.raises(TimedOut, match=r"service said nothing for 1\.5 s, longer than it does otherwise") as caught,
        deadline.over(line, waiting),
        waiting.once(),
    ):
        assert stream.heard() == b""
    assert caught.value.detail["early"]


def test_one_that_speaks_in_time_is_not(stream: Stream, line: Line, deadline: Deadline, waiting: Waiting) -> None:
    def pieces() -> Iterator[str]:
        for _ in range(8):
            time.sleep(0.3)
            yield "piece"

    with deadline.over(line, waiting):
        for _ in waiting.over(pieces()):
            pass
        stream.theirs.send(b"more")
        assert stream.heard() == b"more"
    assert not waiting.given_up


def test_one_without_a_connection_that_could_be_cut_is_waited_for_at_rest(deadline: Deadline, waiting: Waiting) -> None:
    """As behind a proxy, until the reply begins: it would be thrown away when it comes."""
    before = time.process_time()
    with deadline.over(Line(), waiting), waiting.once():
        time.sleep(3 * BOUND)
    assert time.process_time() - before < BOUND
    assert not waiting.given_up


def test_a_connection_that_comes_late_is_given_its_time(stream: Stream, deadline: Deadline, waiting: Waiting) -> None:
    late = Line()
    with deadline.over(late, waiting), waiting.once():
        time.sleep(1.5 * BOUND)
        late.join(stream)
        threading.Timer(0.2, lambda: stream.theirs.send(b"here")).start()
        assert stream.heard() == b"here"
    assert not waiting.given_up


def test_what_has_come_and_was_not_read_yet_is_no_silence(
    stream: Stream, line: Line, deadline: Deadline, waiting: Waiting
) -> None:
    """As in a process that was too busy to read it."""
    with deadline.over(line, waiting), waiting.once():
        stream.theirs.send(b"here")
        time.sleep(2 * BOUND)
        assert stream.heard() == b"here"
    assert not waiting.given_up


def test_what_has_come_is_not_given_up_for_the_silence_after_it(
    stream: Stream, line: Line, deadline: Deadline, waiting: Waiting
) -> None:
    with deadline.over(line, waiting) as timer:
        timer.linger(2 * BOUND)
        with waiting.once():
            assert stream.heard() == b""
    assert not waiting.given_up
