"""A deadline for one HTTP call, from its first byte to the last of the reply.

The read timeout of an HTTP client starts anew with every piece, so a service that drips, also with its headers, or
stops just before the end, holds a call far longer than allowed. Here the socket is shut down when the time is over,
which wakes the reader wherever it waits: in a thread or in a greenlet, with TLS or without.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator

import httpx2

from pipeline.adapters.http_faults import Call
from pipeline.adapters.http_line import Line
from pipeline.errors import TimedOut
from pipeline.silence import LOOK_EVERY, Waiting

_REFUSAL_SECONDS = 1.0


class Deadline:
    """The moment until which one call may last, or several side by side."""

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

    def given_up(self, seconds: float) -> TimedOut:
        """The error of a call that was silent for so long."""
        call = self.call
        message = f"{call.upstream} said nothing for {seconds:.3g} s, longer than it does otherwise."
        return TimedOut(message, "", call.detail(early=True))

    @contextlib.contextmanager
    def over(self, line: Line, waiting: Waiting | None = None) -> Iterator[Timer]:
        """Make a call over ``line`` inside: at the deadline it is cut, or before, when it is given up for its silence.

        Whatever is raised inside after that moment, or a body that just ends there, becomes TimedOut.
        """
        timer = Timer(self, line, waiting or Waiting())
        timer.start()
        try:
            yield timer
        except Exception:
            timer.check()
            raise
        finally:
            timer.cancel()
        timer.check()
        timer.waiting.succeeded()


class Timer(threading.Thread):
    """Cuts the line of one call when its time is over. One that can be moved: a second thread would cost as much."""

    def __init__(self, deadline: Deadline, line: Line, waiting: Waiting) -> None:
        """Made by :meth:`Deadline.over`."""
        super().__init__(daemon=True)
        self.deadline = deadline
        self.line = line
        self.waiting = waiting
        line.on_join = waiting.connected
        self._end = time.monotonic() + deadline.left()
        self._changed = threading.Event()
        self._cancelled = False
        self._is_met = False

    def run(self) -> None:
        """Wait, and cut."""
        while not self._is_over():
            self._changed.wait(max(0.0, min(self._end - time.monotonic(), self._look_in())))
            self._changed.clear()  # first: what is changed from here on is seen the next time
            if self._cancelled:
                return
        self.line.cut()

    def linger(self, seconds: float) -> None:
        """What matters has come: the call may last so many seconds more, and that it is cut then is no fault."""
        with contextlib.suppress(TimedOut):
            self._end = time.monotonic() + min(seconds, self.deadline.left())
            self._is_met = True
            self._changed.set()

    def check(self) -> None:
        """Raise TimedOut if it is over, unless what matters came before."""
        if self._is_met:
            return
        self.deadline.left()
        if self.waiting.given_up:
            raise self.deadline.given_up(self.waiting.bound)

    def cancel(self) -> None:
        """The call is over."""
        self._cancelled = True
        self._changed.set()

    def _is_over(self) -> bool:
        if time.monotonic() >= self._end:
            return True
        if self._is_met or not self.waiting.is_overdue or self._cannot_say:
            return False
        return self.waiting.give_up()

    def _look_in(self) -> float:
        if self._is_met:
            return math.inf
        look_in = self.waiting.look_in()
        return max(LOOK_EVERY, look_in) if self._cannot_say else look_in

    @property
    def _cannot_say(self) -> bool:
        """Without a connection it is not the model that is silent, and there is nothing to cut: behind a proxy that is
        so until the reply begins. Nor is it where this process was so busy that it has not read what came.
        """
        return not self.line.is_joined or self.line.has_unread


def refusal(reply: httpx2.Response, timer: Timer) -> bytes:
    """What a reply says that is a refusal by its status, as far as that comes soon: the status says the most."""
    timer.linger(_REFUSAL_SECONDS)
    said = b""
    with contextlib.suppress(httpx2.HTTPError):
        for piece in reply.iter_bytes():
            said += piece
    return said
