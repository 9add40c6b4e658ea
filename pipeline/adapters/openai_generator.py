"""Answers of a chat model of an OpenAI-compatible service."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import httpx2
import openai

from pipeline.adapters.http_deadline import Deadline
from pipeline.adapters.http_faults import Call, broken_reply, reported_fault
from pipeline.adapters.openai_client import call_of, time_limits, translating
from pipeline.errors import RequestRejected
from pipeline.prices import Price, cost
from pipeline.seams import Delta, GenerationRequest
from pipeline.types import AnswerMode, Usage

DONE = b"[DONE]"


class OpenAIGenerator:
    """Streams through ``/chat/completions``.

    The events are read here rather than by the client's own stream, which makes an object of every chunk (three
    times the CPU for an answer) and drops the connection after each answer.

    A refusal is an answer like any other, and one that reached the model's length limit is kept as far as it goes;
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
    ) -> None:
        """What a request leaves open is filled in from here; ``prices`` are over the built-in list."""
        self._client = client
        self._model = model
        self._reasoning_effort = reasoning_effort
        self._verbosity = verbosity
        self._prices = prices or {}

    @property
    def mode(self) -> AnswerMode:
        """Its answers are a model's own words."""
        return "generated"

    def stream(self, request: GenerationRequest, *, timeout: float) -> Iterator[Delta]:
        """Pieces as they come, then the usage. Closing the iterator closes the connection."""
        model = request.model or self._model
        call = call_of(self._client, model)
        deadline = Deadline(call, timeout)
        body = self._body(request, model)
        create = self._client.chat.completions.with_streaming_response.create
        with translating(call), create(**body, timeout=time_limits(self._client, deadline)) as reply:
            http: httpx2.Response = reply.http_response
            answer = _Answer(call)
            with deadline.over(http):
                for event in _events(http.iter_bytes(), call):
                    text = answer.add(event)
                    if text:
                        yield Delta(text=text)
                answer.check()
        yield Delta(usage=self._usage(model, answer.usage))

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

    def _usage(self, model: str, reported: Mapping[str, Any]) -> Usage:
        given, written = int(reported.get("prompt_tokens") or 0), int(reported.get("completion_tokens") or 0)
        known = cost(model, given, written, self._prices) if reported else None
        return Usage(model=model, input_tokens=given, output_tokens=written, cost_usd=known)


class _Answer:
    """What the events of one answer amount to so far."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.usage: Mapping[str, Any] = {}
        self._finish = ""
        self._empty = True

    def add(self, event: Any) -> str:
        """Take in one event; returns its text."""
        if not isinstance(event, dict):
            raise broken_reply(self.call, "an event that is no object")
        if event.get("error"):
            raise reported_fault(self.call, event)
        self.usage = event.get("usage") or self.usage
        text = ""
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            text += delta.get("content") or delta.get("refusal") or ""
            self._finish = choice.get("finish_reason") or self._finish
        self._empty = self._empty and not text.strip()
        return text

    def check(self) -> None:
        """Raise unless the answer is complete and says something."""
        if self._finish == "content_filter":
            message = f"{self.call.upstream} stopped the answer: its content filter objects."
            raise RequestRejected(message, "Ask in other words.", self.call.detail(code=self._finish))
        if not self._finish:
            raise broken_reply(self.call, "the stream ended before the answer did")
        if self._empty:
            raise broken_reply(self.call, f"an empty answer, finish reason {self._finish!r}")


def _events(pieces: Iterable[bytes], call: Call) -> Iterator[Any]:
    """Decoded ``data:`` events of a stream of server-sent events, up to ``[DONE]``."""
    done = False
    for line in _lines(pieces):
        if done or not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == DONE:
            done = True  # read on to the very end: only then can the connection serve the next answer
            continue
        try:
            yield json.loads(data)
        except ValueError:
            raise broken_reply(call, "an event that is not JSON") from None


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _encodable(text: str) -> str:
    """``text`` without lone surrogates, which JSON can't carry."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
