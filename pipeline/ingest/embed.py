"""Stage ``embed``: a vector for every chunk of a batch, paid for once per text and model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Protocol

from pipeline.errors import Cancelled, ModelMismatch
from pipeline.seams import EmbeddedPart, Embedder
from pipeline.types import BatchOutcome, Run, RunItem, StoredChunk, Vector


class EmbeddingCache(Protocol):
    """Vectors by space (model and size) and text hash, shared by all workers."""

    def known(self, space: str, hashes: Sequence[str]) -> set[str]:
        """Those of ``hashes`` that have a vector."""

    def save(self, space: str, vectors: Mapping[str, Vector]) -> None:
        """Add vectors by hash."""


class Chunks(Protocol):
    """Where the chunks of a generation are read."""

    def chunks(self, versions: Sequence[tuple[str, int]]) -> list[StoredChunk]:
        """The chunks of these generations."""


def embed(
    items: Sequence[RunItem],
    run: Run,
    *,
    chunks: Chunks,
    cache: EmbeddingCache,
    embedder: Embedder,
    timeout: float,
    go_on: Callable[[], bool],
    paid: Callable[[int], None] = lambda _tokens: None,
) -> BatchOutcome:
    """Embed what no worker has embedded yet; while it goes on ``go_on`` is asked: raises Cancelled. ``paid`` is told of
    the tokens that each request cost.

    The vectors go to the cache in Postgres, not into a message: a redelivered upsert finds them there. They go there as
    they come, so a failure throws away nothing that was paid for.
    """
    found = chunks.chunks([item.version for item in items])
    texts = {chunk.embed_hash: chunk.indexed_text for chunk in found}
    missing = sorted(set(texts) - cache.known(run.kb.vector_space, list(texts)))
    left = len(missing)
    with contextlib.closing(_parts(embedder, [texts[key] for key in missing], timeout)) as parts:
        for part in parts:
            _require_size(part.vectors, run)
            place = slice(part.first, part.first + len(part.vectors))
            cache.save(run.kb.vector_space, dict(zip(missing[place], part.vectors, strict=True)))
            paid(part.tokens)
            left -= len(part.vectors)
            if left and not go_on():
                raise Cancelled("The run is over.")
    return BatchOutcome(embedded=len(missing))


def _parts(embedder: Embedder, texts: Sequence[str], timeout: float) -> Generator[EmbeddedPart, None, None]:
    # A generator of our own, since not every iterator can be closed: that ends what is not yet sent.
    yield from embedder.embed_parts(texts, timeout=timeout)


def _require_size(vectors: Sequence[Vector], run: Run) -> None:
    wrong = next((len(vector) for vector in vectors if len(vector) != run.kb.dimensions), None)
    if wrong is not None:
        raise ModelMismatch(
            f"The embedding model gave {wrong} dimensions, the knowledge base has {run.kb.dimensions}.",
            "Set CELERIAC_EMBEDDING_DIMENSIONS to the size it was built with.",
        )
