"""Chunks into an index, with their vectors from the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.errors import InternalFault
from pipeline.seams import IndexWriter
from pipeline.types import IndexEntry, IndexRef, StoredChunk, Vector

# Chunks written to the store in one call.
_PAGE = 1000


class VectorsMissing(InternalFault):
    """Chunks were embedded for other indexes than they are to be written to."""


class Vectors(Protocol):
    """Vectors by space (model and size) and text hash."""

    def load(self, space: str, hashes: Sequence[str]) -> Mapping[str, Vector]:
        """Vectors by hash."""


def write(
    chunks: Sequence[StoredChunk], index: IndexRef, *, vectors: Vectors, store: IndexWriter, timeout: float
) -> None:
    """Write chunks page by page, ``timeout`` is for each; raises VectorsMissing where some were not embedded."""
    for first in range(0, len(chunks), _PAGE):
        store.upsert(index, _entries(chunks[first : first + _PAGE], vectors, index), timeout=timeout)


def _entries(chunks: Sequence[StoredChunk], vectors: Vectors, index: IndexRef) -> list[IndexEntry]:
    found = vectors.load(index.vector_space, list({chunk.embed_hash for chunk in chunks}))
    missing = sum(chunk.embed_hash not in found for chunk in chunks)
    if missing:
        raise VectorsMissing(f"{missing} of {len(chunks)} chunks have no vector, though their batch was embedded.")
    return entries_of(chunks, found)


def entries_of(chunks: Sequence[StoredChunk], vectors: Mapping[str, Vector]) -> list[IndexEntry]:
    """Chunks as a store takes them, with their vectors by text hash, none of which may be missing."""
    return [
        IndexEntry(
            chunk_id=chunk.id,
            document_id=chunk.document_id,
            generation=chunk.generation,
            vector=vectors[chunk.embed_hash],
            keywords=chunk.indexed_text,
        )
        for chunk in chunks
    ]
