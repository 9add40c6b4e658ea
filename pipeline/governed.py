"""Parts of a question that pass the governor, or the circuit breaker alone, on their way to their service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pipeline.cancelling import Abort
from pipeline.governor import Upstream
from pipeline.seams import Delta, GenerationRequest, Reranker, Retriever, closing
from pipeline.seams import Generator as AnswerGenerator
from pipeline.types import AnswerMode, Hit, IndexRef, Passage, Vector

BYTES_PER_TOKEN = 3
EXPECTED_ANSWER = 300
"""Tokens that are reserved for an answer; it is corrected by what it really has."""


class GovernedGenerator:
    """A generator whose every call is admitted by the governor of its model."""

    def __init__(self, inner: AnswerGenerator, model: str, upstream_of: Callable[[str], Upstream]) -> None:
        """``upstream_of`` gives the upstream of a model; a request that names none is for ``model``."""
        self.inner = inner
        self._model = model
        self._upstream_of = upstream_of

    @property
    def mode(self) -> AnswerMode:
        """That of the generator inside."""
        return self.inner.mode

    def stream(self, request: GenerationRequest, *, timeout: float, abort: Abort | None = None) -> Iterator[Delta]:
        """Pieces as they come. Raises Postponed or Unavailable before the first where it must not be called now."""
        upstream = self._upstream_of(request.model or self._model)
        # The pieces are closed first: what is heard of the call is its own end, not that of whoever read it.
        with (
            upstream.call(tokens=_estimate(request)) as call,
            closing(self.inner.stream(request, timeout=timeout, abort=abort)) as pieces,
        ):
            answered = False
            for delta in pieces:
                if delta.headers:  # before the others go on
                    call.seen(delta.headers)
                if not answered:
                    answered = True
                    call.answered()
                if delta.usage is not None and delta.usage.input_tokens:
                    call.used(delta.usage.input_tokens + delta.usage.output_tokens)
                yield delta


class GuardedReranker:
    """A reranker behind a circuit breaker."""

    def __init__(self, inner: Reranker, upstream: Upstream) -> None:
        """``upstream`` is the reranker's."""
        self.inner = inner
        self._upstream = upstream

    def rerank(self, question: str, passages: Sequence[Passage], *, timeout: float) -> Sequence[Passage]:
        """As the reranker inside; raises Unavailable while its breaker is open."""
        with self._upstream.call():
            return self.inner.rerank(question, passages, timeout=timeout)


class GuardedRetriever:
    """The reading side of a vector store behind a circuit breaker. The two branches of a search begin together: where
    one is the probe after an outage, the other one waits for it.
    """

    def __init__(self, inner: Retriever, upstream: Upstream) -> None:
        """``upstream`` is the store's."""
        self.inner = inner
        self._upstream = upstream

    def vector_search(self, index: IndexRef, vector: Vector, limit: int, *, timeout: float) -> list[Hit]:
        """As the store inside; raises Unavailable while its breaker is open."""
        with self._upstream.call(follow=True):
            return self.inner.vector_search(index, vector, limit, timeout=timeout)

    def keyword_search(self, index: IndexRef, text: str, limit: int, *, timeout: float) -> list[Hit]:
        """As the store inside; raises Unavailable while its breaker is open."""
        with self._upstream.call(follow=True):
            return self.inner.keyword_search(index, text, limit, timeout=timeout)


def _estimate(request: GenerationRequest) -> int:
    return request.prompt_bytes // BYTES_PER_TOKEN + EXPECTED_ANSWER
