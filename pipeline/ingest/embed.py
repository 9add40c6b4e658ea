"""Stage ``embed``: a vector for every chunk of a batch, paid for once per text and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pipeline.errors import ModelMismatch
from pipeline.seams import Embedder
from pipeline.types import DraftChunk, Run, RunItem, Vector

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


class Manifest(Protocol):
    """The ledger of items."""

    def advance(self, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Move items on."""


def embed(
    items: Sequence[RunItem],
    run: Run,
    *,
    manifest: Manifest,
    chunks: Chunks,
    cache: EmbeddingCache,
    embedder: Embedder,
    timeout: float,
) -> int:
    """Embed what no worker has embedded yet; returns how many texts that were.

    The vectors go to the cache in Postgres, not into a message: a redelivered upsert finds them there.
    """
    found = chunks.chunks([(str(item.document_id), item.generation or 0) for item in items])
    texts = {chunk.embed_hash: chunk.indexed_text for chunk in found}
    missing = sorted(set(texts) - cache.known(run.kb.vector_space, list(texts)))
    for first in range(0, len(missing), _PAGE):
        page = missing[first : first + _PAGE]
        vectors = embedder.embed([texts[key] for key in page], timeout=timeout).vectors
        _require_size(vectors, run)
        cache.save(run.kb.vector_space, dict(zip(page, vectors, strict=True)))
    manifest.advance(run.id, _rows(items, found, set(missing)))
    return len(missing)


def _require_size(vectors: Sequence[Vector], run: Run) -> None:
    wrong = next((len(vector) for vector in vectors if len(vector) != run.kb.dimensions), None)
    if wrong is not None:
        raise ModelMismatch(
            f"The embedding model gave {wrong} dimensions, the knowledge base has {run.kb.dimensions}.",
            "Set CELERIAC_EMBEDDING_DIMENSIONS to the size it was built with.",
        )


def _rows(items: Sequence[RunItem], chunks: Sequence[DraftChunk], embedded: set[str]) -> list[dict[str, Any]]:
    counted: dict[str, int] = {}
    for chunk in chunks:
        if chunk.embed_hash in embedded:
            embedded.discard(chunk.embed_hash)  # a text that occurs twice was embedded once
            counted[chunk.document_id] = counted.get(chunk.document_id, 0) + 1
    return [
        {"number": item.number, "status": "embedded", "embedded": counted.get(str(item.document_id), 0)}
        for item in items
    ]
