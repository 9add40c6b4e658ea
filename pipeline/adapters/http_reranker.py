"""Reranking by a service with a ``/rerank`` endpoint: Cohere, Jina, vLLM, text-embeddings-inference and others."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import httpx2

from pipeline.adapters.http_deadline import Deadline, refusal
from pipeline.adapters.http_faults import Call, broken_reply, status_fault
from pipeline.adapters.http_lanes import make_transport
from pipeline.adapters.http_line import Line
from pipeline.errors import TimedOut, Unreachable, UpstreamError
from pipeline.types import Passage


class HttpReranker:
    """Cross-encoder scores over HTTP.

    Two dialects are spoken: ``documents`` → ``results`` (Cohere, Jina, vLLM) and ``texts`` → a bare list
    (text-embeddings-inference), which is tried after a 422 and remembered.
    """

    def __init__(self, url: str, model: str, api_key: str | None, connect_timeout: float) -> None:
        """``url`` is the endpoint itself, or the base address it lies under; ``model`` "" sends none."""
        self._url = url if url.rstrip("/").endswith("rerank") else f"{url.rstrip('/')}/rerank"
        self._model = model
        self._connect_timeout = connect_timeout
        self._call = Call("reranker", model, secret=api_key or "")
        self._field = "documents"
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            transport=make_transport(),
        )

    def rerank(self, question: str, passages: Sequence[Passage], *, timeout: float) -> Sequence[Passage]:
        """All ``passages``, best first. What the service leaves out comes last, in its old order, with score 0."""
        if not passages:
            return []
        deadline = Deadline(self._call, timeout)
        try:
            reply = self._ask(question, [passage.text or " " for passage in passages], deadline)
        except httpx2.HTTPError as error:
            raise self._translated(error) from None
        scores = self._scores(reply, len(passages))
        order = sorted(range(len(passages)), key=lambda index: -scores.get(index, -1.0))
        return [passages[index].model_copy(update={"score": scores.get(index, 0.0)}) for index in order]

    def close(self) -> None:
        """Give back connections."""
        self._client.close()

    def _ask(self, question: str, texts: list[str], deadline: Deadline) -> Any:
        field = self._field
        status, headers, reply = self._post(self._body(field, question, texts), deadline)
        if status == 422 and field == "documents":
            status, headers, reply = self._post(self._body("texts", question, texts), deadline)
            self._field = "texts" if status < 400 else field
        if status >= 400:
            raise status_fault(self._call, status, headers, reply)
        return reply

    def _body(self, field: str, question: str, texts: list[str]) -> dict[str, Any]:
        body: dict[str, Any] = {"query": question, field: texts}
        if field == "texts":
            return {**body, "truncate": True}
        named = {"model": self._model} if self._model else {}
        return {**body, **named, "top_n": len(texts), "return_documents": False}

    def _post(self, body: dict[str, Any], deadline: Deadline) -> tuple[int, httpx2.Headers, Any]:
        left = deadline.left()
        limits = httpx2.Timeout(left, connect=min(left, self._connect_timeout))
        line = Line()
        with (
            deadline.over(line) as timer,
            line.dialling(),
            self._client.stream("POST", self._url, json=body, timeout=limits) as reply,
            line.over(reply),
        ):
            raw = b"".join(reply.iter_bytes()) if reply.status_code < 400 else refusal(reply, timer)
        try:
            return reply.status_code, reply.headers, json.loads(raw)
        except ValueError:
            if reply.status_code >= 400:
                return reply.status_code, reply.headers, raw.decode("utf-8", "replace")
            raise broken_reply(self._call, "not JSON") from None

    def _scores(self, reply: Any, count: int) -> dict[int, float]:
        """Scores in [0, 1] by the index of the passage."""
        try:
            results = reply["results"] if isinstance(reply, dict) else reply
            found = {int(item["index"]): float(item.get("relevance_score", item.get("score"))) for item in results}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise broken_reply(self._call, "no scores in it") from None
        if not found or not all(0 <= index < count and math.isfinite(score) for index, score in found.items()):
            raise broken_reply(self._call, "scores that are no numbers, or of passages it was not given")
        return _squashed(found)

    def _translated(self, error: httpx2.HTTPError) -> UpstreamError:
        call = self._call
        if isinstance(error, httpx2.TimeoutException):
            return TimedOut("The reranker gave no answer in time.", "", call.detail())
        if isinstance(error, httpx2.ConnectError):
            return Unreachable(f"The reranker can't be reached: {call.quote(str(error))}.", "", call.detail())
        return broken_reply(call, call.quote(str(error)).rstrip(".") or type(error).__name__)


def _squashed(scores: dict[int, float]) -> dict[int, float]:
    """Scores as they are where all lie in [0, 1]; else they are logits, and the logistic function keeps their order."""
    if all(0.0 <= score <= 1.0 for score in scores.values()):
        return scores
    return {index: 0.5 * (1.0 + math.tanh(score / 2.0)) for index, score in scores.items()}
