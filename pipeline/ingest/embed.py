"""Stage ``embed``: a vector for every chunk of a batch, paid for once per text and model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pipeline.errors import Cancelled, ModelMismatch
from pipeline.seams import Embedder
from pipeline.types import BatchOutcome, DraftChunk, Run, RunItem, Vector

# Texts embedded between two saves: a failure in a large document must not throw away what was paid for.
_PAGE = 1024


class EmbeddingCache(Protocol):
    """Vectors by space (model and size) and text hash, shared by all workers."""

    def known(self, space: str, hashes: Sequence[str]) -> set[str]:
        """Those of ``hashes`` that have a vector."""

    def save(self, space: str, vectors: Mapping[str, Vector]) -> None:
        """Add vectors by hash."""


class Chunks(Protocol):
    """Where the chunks of a generation are read."""

    def chunks(self, versions: Sequence[tuple[str, int]]) -> list[DraftChunk]:
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
) -> BatchOutcome:
    """Embed what no worker has embedded yet; before each page of texts ``go_on`` is asked: raises Cancelled.

    The vectors go to the cache in Postgres, not into a message: a redelivered upsert finds them there.
    """
    found = chunks.chunks([(str(item.document_id), item.generation or 0) for item in items])
    texts = {chunk.embed_hash: chunk.indexed_text for chunk in found}
    missing = sorted(set(texts) - cache.known(run.kb.vector_space, list(texts)))
    for first in range(0, len(missing), _PAGE):
        if first and not go_on():
            raise Cancelled("The run is over.")
        page = missing[first : first + _PAGE]
        vectors = embedder.embed([texts[key] for key in page], timeout=timeout).vectors
        _require_size(vectors, run)
        cache.save(run.kb.vector_space, dict(zip(page, vectors, strict=True)))
    return BatchOutcome(embedded=len(missing))


def _require_size(vectors: Sequence[Vector], run: Run) -> None:
    wrong = next((len(vector) for vector in vectors if len(vector) != run.kb.dimensions), None)
    if wrong is not None:
        raise ModelMismatch(
            f"The embedding model gave {wrong} dimensions, the knowledge base has {run.kb.dimensions}.",
            "Set CELERIAC_EMBEDDING_DIMENSIONS to the size it was built with.",
        )
