"""Stage ``upsert``: into the vector store, and only then live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.ingest.removal import Superseded, delete, retire
from pipeline.ingest.writing import Vectors, write
from pipeline.seams import IndexWriter
from pipeline.types import BatchOutcome, IndexRef, Run, RunItem, StoredChunk


class Documents(Superseded, Protocol):
    """Chunks of drafts, and the switch to a new generation."""

    def chunks(self, versions: Sequence[tuple[str, int]]) -> list[StoredChunk]:
        """The chunks of these generations."""

    def switch(self, versions: Sequence[tuple[str, int]], written: Sequence[IndexRef]) -> set[tuple[str, int]]:
        """Make these generations live; returns those whose document is gone, or live at a newer generation. Raises Busy
        where the knowledge base has an index by now that they are not ``written`` to.
        """


def upsert(
    items: Sequence[RunItem],
    run: Run,
    *,
    documents: Documents,
    vectors: Vectors,
    store: IndexWriter,
    timeout: float,
) -> BatchOutcome:
    """Write the items' chunks to all indexes, switch their documents to them, remove what they replace.

    The order is the guarantee: a reader sees the old generation until every chunk of the new one is in the store.
    Raises VectorsMissing, see :func:`write`.
    """
    versions = [item.version for item in items]
    chunks = documents.chunks(versions)
    for index in run.kb.indexes:
        write(chunks, index, vectors=vectors, store=store, timeout=timeout)
    # Another run may have gone further with the same document, or somebody deleted it: what came too late goes again.
    late = documents.switch(versions, run.kb.indexes)
    too_late = [chunk.id for chunk in chunks if (chunk.document_id, chunk.generation) in late]
    delete(too_late, run.kb.indexes, store=store, timeout=timeout)
    # A first generation replaces nothing.
    if ids := [document for document, generation in versions if generation > 1]:
        retire(ids, run.kb.all_indexes, documents=documents, store=store, timeout=timeout)
    return BatchOutcome(done=tuple(item.number for item in items))
