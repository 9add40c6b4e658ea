"""Answers of a chat model of an OpenAI-compatible service."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import httpx2
import openai

from pipeline.adapters.http_deadline import Deadline, Timer
from pipeline.adapters.http_faults import Call, broken_reply, limits_named, reported_fault
from pipeline.adapters.http_lanes import AT_HAND
from pipeline.adapters.http_line import Line
from pipeline.adapters.openai_client import call_of, posted, translating
from pipeline.cancelling import Abort
from pipeline.errors import CeleriacError, RequestRejected, TimedOut, UpstreamError
from pipeline.losses import current, estimate
from pipeline.prices import Price, cost
from pipeline.seams import Delta, GenerationRequest
from pipeline.silence import Silences
from pipeline.types import AnswerMode, Usage

_PATH = "/chat/completions"
DONE = b"[DONE]"
_GATHER_AT_LEAST, _GATHER_EACH, _GATHER_AT_MOST = 0.025, 0.003, 0.1
"""Seconds in which pieces are let come together, the second for each answer that this process reads: a few answers are
read as they are written; of many the end of each comes late by half of that on average.
"""
_LONGEST = 65_536
"""Bytes that are told together at most, though there are more at hand."""
_LINGER = 0.5
"""Seconds that a service has to end its reply after the end of the answer."""


class OpenAIGenerator:
    """Streams through ``/chat/completions``.

    The events are read here rather than by the client's own stream, which makes an object of every chunk (three
    times the CPU for an answer) and drops the connection after each answer.

    A refusal is an answer like any other, and one that reached the model's length limit is given as far as it goes;
    one that a content filter stopped is an error, since half an answer may say the opposite of the whole.
    """

    def __init__(
        self,
        client: openai.OpenAI,
        model: str,
        *,
        reasoning_effort: str | None = None,
        verbosity: str | None = None,
        prices: Mapping[str, Price] | None = None,
        silences: Silences | None = None,
    ) -> None:
        """What a request leaves open is filled in from here; ``prices`` are over the built-in list. ``silences`` says
        how long a model may say nothing; None: to the end of its time.
        """
        self._client = client
        self._model = model
        self._reasoning_effort = reasoning_effort
        self._verbosity = verbosity
        self._prices = prices or {}
        self._silences = silences or Silences()
        self._open: set[Deadline] = set()  # of the answers that are being read

    @property
    def mode(self) -> AnswerMode:
        """Its answers are a model's own words."""
        return "generated"

    def stream(self, request: GenerationRequest, *, timeout: float, abort: Abort | None = None) -> Iterator[Delta]:
        """Pieces as they come, then the usage. Closing the iterator closes the connection, and so does ``abort``, also
        while the service has not begun to answer; behind a proxy only once it has.
        """
        model = request.model or self._model
        answer, line = _Answer(call_of(self._client, model)), Line()
        deadline = Deadline(answer.call, timeout)
        waiting = self._silences.waiting(model, request.reasoning_effort)
        with (
            self._paid_for_nothing(request, answer, line),
            _given_up(abort or Abort(), line),
            translating(answer.call),
            deadline.over(line, waiting) as timer,
            _noting_refusal(answer),
            posted(self._client, _PATH, self._body(request, model), timer) as http,
            self._counted(deadline),
        ):
            headers = limits_named(http.headers)
            pieces = itertools.chain(waiting.over(http.iter_bytes()), [b"\n"])  # the last line may have no end
            for piece in _gathered(pieces, http.extensions.get(AT_HAND), lambda: self._pause(answer)):
                text = answer.read(piece)
                if text or not piece:
                    yield Delta(text=text, headers=headers)
                    headers = None
                if answer.done:
                    break
            if not http.is_closed:
                _read_out(pieces, timer)
            answer.check()
        yield Delta(usage=self._usage(model, answer.tokens), cut_off=answer.is_cut_off)

    @contextlib.contextmanager
    def _counted(self, deadline: Deadline) -> Iterator[None]:
        self._open.add(deadline)
        try:
            yield
        finally:
            self._open.discard(deadline)

    @contextlib.contextmanager
    def _paid_for_nothing(self, request: GenerationRequest, answer: _Answer, line: Line) -> Iterator[None]:
        """Tell what the call inside cost if it comes to no end. One that was refused, or found no service, was free;
        where we did not wait for the reply, the service has the prompt all the same.
        """
        losses = current()  # now: the iterator may be closed from elsewhere
        model = request.model or self._model
        try:
            yield
        except BaseException as error:  # GeneratorExit, too
            was_left = isinstance(error, TimedOut) or not isinstance(error, UpstreamError)
            if answer.is_ended and answer.tokens:
                losses.add(self._usage(model, answer.tokens))
            elif answer.has_begun or (line.is_asked and was_left and not answer.is_refused):
                losses.add(estimate(model, request.prompt_bytes, answer.written, self._prices))
            raise

    def _pause(self, answer: _Answer) -> float:
        if not answer.written or answer.done:
            return 0.0  # before its first text there are pieces without one, and that must not be late
        return min(_GATHER_AT_MOST, max(_GATHER_AT_LEAST, _GATHER_EACH * len(self._open)))

    def _body(self, request: GenerationRequest, model: str) -> dict[str, Any]:
        wanted = {
            "reasoning_effort": request.reasoning_effort or self._reasoning_effort,
            "verbosity": request.verbosity or self._verbosity,
        }
        return {
            "model": model,
            "messages": [{"role": role, "content": _encodable(content)} for role, content in request.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            # Only what is set: most models and compatible services refuse settings they don't know.
            **{name: value for name, value in wanted.items() if value},
        }

    def _usage(self, model: str, reported: tuple[int, int] | None) -> Usage:
        given, written = reported or (0, 0)
        known = cost(model, given, written, self._prices) if reported else None
        return Usage(model=model, input_tokens=given, output_tokens=written, cost_usd=known)


@contextlib.contextmanager
def _noting_refusal(answer: _Answer) -> Iterator[None]:
    try:
        yield
    except CeleriacError as error:
        answer.is_refused = "status" in error.detail
        raise


@contextlib.contextmanager
def _given_up(abort: Abort, line: Line) -> Iterator[None]:
    """The line is cut when ``abort`` is triggered; whatever is raised inside after that becomes Cancelled, and so does
    an end.
    """
    abort.check()
    with abort.calling(line.cut):
        try:
            yield
        except Exception:
            abort.check()
            raise
        abort.check()


class _Answer:
    """What the events of one answer amount to so far."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.tokens: tuple[int, int] | None = None
        """Given and written, once they are reported."""
        self.is_refused = False
        """Whether the reply had a status that says so."""
        self.has_begun = False
        """Whether an event has come that is no refusal."""
        self.written = 0
        """Bytes of its text."""
        self.done = False
        self._rest = b""
        self._finish = ""
        self._empty = True

    def read(self, piece: bytes) -> str:
        """Take in a piece of the stream of server-sent events; returns its text."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        text = "".join(self._read_line(line) for line in lines)
        self._empty = self._empty and not text.strip()
        return text

    def _read_line(self, line: bytes) -> str:
        if self.done or not line.startswith(b"data:"):
            return ""
        data = line[5:].strip()
        if data == DONE:
            self.done = True
            return ""
        try:
            event = json.loads(data)
        except ValueError:
            raise broken_reply(self.call, "an event that is not JSON") from None
        try:
            return self._taken(event)
        except (AttributeError, TypeError, ValueError, OverflowError):
            raise broken_reply(self.call, "an event of an unknown form") from None

    def _taken(self, event: Any) -> str:
        if event.get("error"):
            raise reported_fault(self.call, event)
        self.has_begun = True
        usage = event.get("usage")
        if usage:
            self.tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        text = ""
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            text += delta.get("content") or delta.get("refusal") or ""
            self._finish = choice.get("finish_reason") or self._finish
        self.written += len(text.encode("utf-8", "replace"))  # now: the next event may be the end of it
        return text

    @property
    def is_ended(self) -> bool:
        """Whether the model has written all that it wanted or was allowed to."""
        return bool(self._finish)

    @property
    def is_cut_off(self) -> bool:
        """Whether it ended because it had to."""
        return self._finish == "length"

    def check(self) -> None:
        """Raise unless the answer is complete and says something."""
        if self._finish == "content_filter":
            message = f"{self.call.upstream} stopped the answer: its content filter objects."
            raise RequestRejected(message, "Ask in other words.", self.call.detail(code=self._finish))
        if not self._finish:
            raise broken_reply(self.call, "the stream ended before the answer did")
        if self._empty:
            raise broken_reply(self.call, f"an empty answer, finish reason {self._finish!r}")


def _read_out(pieces: Iterable[bytes], timer: Timer) -> None:
    """Read on after an answer to the very end: only then can its connection serve the next one. A service that leaves
    it open, or breaks it, harms nothing any more.
    """
    timer.linger(_LINGER)
    with contextlib.suppress(httpx2.HTTPError):
        for _ in pieces:
            pass


def _gathered(
    pieces: Iterable[bytes], at_hand: Callable[[], bool] | None, pause: Callable[[], float]
) -> Iterator[bytes]:
    """The same pieces, those that are at hand together as one; after each of these more are let come for so many
    seconds. To wait for every piece on its own was a third of an answer's processor time, and what is told at once is
    sent to readers at once. Behind a proxy nobody knows what is at hand: there they are told as they come.
    """
    if at_hand is None:
        yield from pieces
        return
    found = b""
    for piece in pieces:
        found += piece
        if len(found) < _LONGEST and at_hand():
            continue
        yield found
        found = b""
        seconds = pause()
        if seconds:
            time.sleep(seconds)
            if not at_hand():
                yield b""  # whoever holds something back need not wait for what comes next
    if found:
        yield found


def _encodable(text: str) -> str:
    """``text`` without lone surrogates, which JSON can't carry."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
