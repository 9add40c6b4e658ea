"""Stage ``upsert``: into the vector store, and only then live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.errors import InternalFault
from pipeline.ingest.removal import Superseded, retire
from pipeline.seams import IndexWriter
from pipeline.types import BatchOutcome, DraftChunk, IndexEntry, Run, RunItem, Vector

# Chunks written to the store in one call.
_PAGE = 1000


class Vectors(Protocol):
    """Vectors by space (model and size) and text hash."""

    def load(self, space: str, hashes: Sequence[str]) -> Mapping[str, Vector]:
        """Vectors by hash."""


class Documents(Superseded, Protocol):
    """Chunks of drafts, and the switch to a new generation."""

    def chunks(self, versions: Sequence[tuple[str, int]]) -> list[DraftChunk]:
        """The chunks of these generations."""

    def switch(self, versions: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        """Make these generations live; returns those whose document is gone, or live at a newer generation."""


def upsert(
    items: Sequence[RunItem],
    run: Run,
    *,
    documents: Documents,
    vectors: Vectors,
    store: IndexWriter,
    timeout: float,
) -> BatchOutcome:
    """Write the items' chunks to the store, switch their documents to them, remove what they replace.

    The order is the guarantee: a reader sees the old generation until every chunk of the new one is in the store.
    """
    versions = [(str(item.document_id), item.generation or 0) for item in items]
    chunks = documents.chunks(versions)
    for first in range(0, len(chunks), _PAGE):
        store.upsert(run.kb.index, _entries(chunks[first : first + _PAGE], vectors, run), timeout=timeout)
    # Another run may have gone further with the same document, or somebody deleted it: what came too late goes again.
    if late := documents.switch(versions):
        store.delete(run.kb.index, [c.id for c in chunks if (c.document_id, c.generation) in late], timeout=timeout)
    # A first generation replaces nothing.
    if ids := [document for document, generation in versions if generation > 1]:
        retire(ids, run.kb.index, documents=documents, store=store, timeout=timeout)
    return BatchOutcome(done=tuple(item.number for item in items))


def _entries(chunks: Sequence[DraftChunk], vectors: Vectors, run: Run) -> list[IndexEntry]:
    found = vectors.load(run.kb.vector_space, list({chunk.embed_hash for chunk in chunks}))
    missing = sum(chunk.embed_hash not in found for chunk in chunks)
    if missing:
        raise InternalFault(f"{missing} of {len(chunks)} chunks have no vector, though their batch was embedded.")
    return [
        IndexEntry(
            chunk_id=chunk.id,
            document_id=chunk.document_id,
            generation=chunk.generation,
            vector=found[chunk.embed_hash],
            keywords=chunk.indexed_text,
        )
        for chunk in chunks
    ]
