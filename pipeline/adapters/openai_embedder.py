"""Embeddings of an OpenAI-compatible service."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import structlog
from numpy.typing import NDArray

from pipeline.adapters.embedding_parts import Limits, Reply, in_parts
from pipeline.adapters.http_deadline import Deadline
from pipeline.adapters.http_faults import Call, broken_reply
from pipeline.adapters.http_line import Line
from pipeline.adapters.openai_client import call_of, posted, read_json, translating
from pipeline.errors import RequestRejected
from pipeline.gate import LocalGateStore
from pipeline.governor import Upstream
from pipeline.pacing import Pace
from pipeline.seams import EmbeddedPart, Embeddings
from pipeline.silence import Silences, Waiting
from pipeline.types import Vector

NATIVE_DIMENSIONS = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}
MAX_TEXT_TOKENS = 8192
"""The longest text that OpenAI's models take."""
BYTES_PER_TOKEN = 3
"""UTF-8 bytes per token, rather too few: English has about 4.5, so the limits are never missed by guessing."""
PROBE_SECONDS = 30.0

_PATH = "/embeddings"

log = structlog.get_logger(__name__)


class OpenAIEmbedder:
    """Embeds through ``/embeddings``, in as many requests as the limits ask for, side by side.

    A text longer than the model takes is cut at a word and the cut is logged: chunks are far shorter, so only a
    very long question can be. An empty text, which the service refuses, is sent as one space.
    """

    def __init__(
        self,
        client: openai.OpenAI,
        model: str,
        dimensions: int | None,
        *,
        max_texts: int,
        max_tokens: int,
        concurrency: int,
        pace: Pace | None = None,
        upstream: Upstream | None = None,
        silences: Silences | None = None,
    ) -> None:
        """``dimensions`` None: the model's own; asks the service only when it must. Limits are per request.

        ``pace`` is that of bulk work, ``upstream`` admits people's calls; None: one that no other process shares.
        ``silences`` says how long people's calls may take; None: to the end of their time.
        """
        self._client = client
        self._model = model
        self._asked = dimensions if dimensions != NATIVE_DIMENSIONS.get(model) else None
        self._dimensions = dimensions or NATIVE_DIMENSIONS.get(model)
        self._max_texts = max_texts
        self._max_tokens = max_tokens
        self._concurrency = concurrency
        self._call = call_of(client, model)
        self._pace = pace or Pace(self._call.upstream, LocalGateStore(), most=concurrency)
        self._upstream = upstream or Upstream.alone(self._call.upstream)
        self._silences = silences or Silences()
        self._probing = threading.Lock()

    @property
    def model(self) -> str:
        """The name the service knows it by."""
        return self._model

    @property
    def dimensions(self) -> int:
        """Length of each vector; of a model nobody knows, learned from one short call, once."""
        with self._probing:
            if self._dimensions is None:
                self._dimensions = len(self.embed(["length"], timeout=PROBE_SECONDS).vectors[0])
        return self._dimensions

    def embed(self, texts: Sequence[str], *, timeout: float) -> Embeddings:
        """Unit vectors of ``texts``, in order; ``timeout`` bounds all requests together."""
        deadline = Deadline(self._call, timeout)
        batches = list(_batches([self._sendable(text) for text in texts], self._max_texts, self._max_tokens))
        parts = self._side_by_side(batches, deadline)
        return Embeddings(
            vectors=tuple(vector for vectors, _ in parts for vector in vectors),
            tokens=sum(tokens for _, tokens in parts),
        )

    def embed_parts(self, texts: Sequence[str], *, timeout: float) -> Iterator[EmbeddedPart]:
        """Unit vectors of ``texts`` as the requests end, at the pace that the service bears."""
        return in_parts(
            [self._sendable(text) for text in texts],
            lambda batch: self._request(batch, Deadline(self._call, timeout), self._silences.waiting("bulk")),
            tokens_of=_tokens_of,
            pace=self._pace,
            limits=Limits(self._max_texts, self._max_tokens, self._concurrency),
        )

    def _side_by_side(self, batches: list[list[str]], deadline: Deadline) -> list[tuple[NDArray[np.float32], int]]:
        if len(batches) < 2:  # a question: no pool for one request
            return [self._admitted(batch, deadline) for batch in batches]
        with ThreadPoolExecutor(min(self._concurrency, len(batches))) as pool:
            waiting = [pool.submit(self._admitted, batch, deadline) for batch in batches]
            try:
                return [request.result() for request in waiting]
            finally:
                for request in waiting:  # after a failure nothing more is paid for
                    request.cancel()

    def _admitted(self, texts: list[str], deadline: Deadline) -> tuple[NDArray[np.float32], int]:
        with self._upstream.call(tokens=sum(map(_tokens_of, texts))) as call:
            vectors, tokens, headers = self._request(texts, deadline, self._silences.waiting("question"))
            if tokens:  # some services don't say: then what was reserved counts
                call.used(tokens)
            call.seen(headers)
        return vectors, tokens

    def _request(self, texts: list[str], deadline: Deadline, waiting: Waiting) -> Reply:
        # As floats they would take fifty times the CPU.
        body: dict[str, Any] = {"model": self._model, "input": texts, "encoding_format": "base64"}
        if self._asked is not None:
            body["dimensions"] = self._asked
        with (
            translating(self._call),
            deadline.over(Line(), waiting) as timer,
            posted(self._client, _PATH, body, timer) as reply,
        ):
            found = read_json(reply, timer)
        return self._checked(_decoded(found, len(texts), self._call)), _tokens(found, self._call), reply.headers

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        found = vectors.shape[1]
        if self._dimensions not in (None, found):
            raise RequestRejected(
                f"{self._model} gave vectors of {found} dimensions, {self._dimensions} are expected.",
                "Set CELERIAC_EMBEDDING_DIMENSIONS to what the model gives, or leave it unset.",
                self._call.detail(),
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.all(np.isfinite(lengths)) or not np.all(lengths > 0):
            raise broken_reply(self._call, "a vector is zero or not a number")
        scaled: NDArray[np.float32] = vectors / lengths
        return scaled

    def _sendable(self, text: str) -> str:
        if not text:
            return " "
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode("utf-8")  # JSON can't carry a lone surrogate
        if len(text) * 4 <= MAX_TEXT_TOKENS * BYTES_PER_TOKEN or _tokens_of(text) <= MAX_TEXT_TOKENS:
            return text
        cut = _cut(text, MAX_TEXT_TOKENS * BYTES_PER_TOKEN)
        log.warning("embedding_text_cut", model=self._model, characters=len(text), kept=len(cut))
        return cut


def _batches(texts: Sequence[str], max_texts: int, max_tokens: int) -> Iterator[list[str]]:
    """Runs of texts within both limits; a text that exceeds a limit alone goes alone."""
    batch: list[str] = []
    used = 0
    for text in texts:
        tokens = _tokens_of(text)
        if batch and (len(batch) == max_texts or used + tokens > max_tokens):
            yield batch
            batch, used = [], 0
        batch.append(text)
        used += tokens
    if batch:
        yield batch


def _tokens_of(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN + 1


def _cut(text: str, size: int) -> str:
    """The beginning of ``text``, at most ``size`` bytes of UTF-8, ended at a word where there is one near."""
    beginning = text.encode("utf-8", "surrogatepass")[:size].decode("utf-8", "ignore")
    space = beginning.rfind(" ", len(beginning) * 9 // 10)
    return beginning[:space] if space > 0 else beginning


def _decoded(body: Any, count: int, call: Call) -> NDArray[np.float32]:
    """Vectors as the service sent them, in the order of the texts; shape (count, dimensions)."""
    try:
        items = {int(item["index"]): _vector(item["embedding"]) for item in body["data"]}
        if sorted(items) != list(range(count)):
            raise broken_reply(call, f"{len(items)} vectors for {count} texts")
        return np.stack([items[index] for index in range(count)])
    except (KeyError, TypeError, ValueError):
        raise broken_reply(call, "no vectors in it, or of several lengths") from None


def _vector(sent: str | list[float]) -> Vector:
    if isinstance(sent, str):
        return np.frombuffer(base64.b64decode(sent), dtype="<f4").astype(np.float32, copy=False)
    return np.asarray(sent, dtype=np.float32)  # some compatible services know no base64


def _tokens(body: Any, call: Call) -> int:
    try:
        usage = body.get("usage") or {}
        return int(usage.get("prompt_tokens") or usage.get("total_tokens") or 0)
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise broken_reply(call, "a usage of an unknown form") from None
