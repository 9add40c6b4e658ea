"""A second index for another embedding model: built beside the one that answers, which it replaces when it is whole.

While it is built everything new is written to both, see ``upsert``. A run of kind ``reembed`` adds what was there
before: the live generation that each document has when its turn comes. The switch is one transaction; a stage that
knew only the old index is refused by ``Documents.switch`` and works again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Protocol

from pipeline.errors import Cancelled, Conflict
from pipeline.ingest.comparison import WRITTEN_AGAIN, Comparison, Truth
from pipeline.ingest.writing import Vectors, write
from pipeline.seams import IndexWriter, Inspectable
from pipeline.types import BatchOutcome, IndexRef, KnowledgeBase, Progress, Run, RunItem, RunStatus, Source, StoredChunk

# Documents looked up in one statement.
_PAGE = 500


class Documents(Protocol):
    """Live documents and their chunks."""

    def live(self, kb_id: str, keys: Sequence[str]) -> Mapping[str, tuple[str, int]]:
        """(document, generation) pairs that readers see now, by key."""

    def chunks(self, versions: Sequence[tuple[str, int]]) -> list[StoredChunk]:
        """The chunks of these generations."""


class Sources(Protocol):
    """Live documents as sources of a run."""

    def live_sources(self, kb_id: str) -> Iterator[tuple[Source, int]]:
        """All of them, each with its number of chunks."""


class Indexes(Protocol):
    """Which indexes a knowledge base has."""

    def switch(self, run_id: str, target: IndexRef) -> bool:
        """Answer from this index, and end the run; False: nothing has changed."""

    def stop(self, kb_id: str) -> None:
        """End the runs that build an index."""

    def give_up(self, kb_id: str) -> None:
        """End the runs that build an index, and write to it no more."""

    def forget(self, previous: IndexRef) -> None:
        """Keep this index as the previous one no more."""


class Ledger(Protocol):
    """The runs."""

    def progress(self, run_id: str) -> Progress:
        """Counts."""

    def finish(self, run_id: str, status: RunStatus, *, error: Conflict) -> bool:
        """End a run."""


# ---------------------------------------------------------------------- the manifest


def lacking_keys(kb: KnowledgeBase, target: IndexRef, *, truth: Truth, store: Inspectable, timeout: float) -> set[str]:
    """Keys of documents of which ``target`` lacks something; ``timeout`` is for each page of the store."""
    comparison = Comparison(kb.served_from(target), truth=truth, store=store, timeout=timeout)
    with closing(comparison.pages()) as pages:
        return {one.document for page in pages for one in page if one.kind in WRITTEN_AGAIN}


class Listing:
    """The sources of a run: all live documents, or those of ``keys``. :meth:`weigh` knows those it has just given."""

    def __init__(self, documents: Sources, kb_id: str, keys: set[str] | None, *, chunk_tokens: int) -> None:
        """``chunk_tokens`` is about how large a chunk is."""
        self._documents, self._kb_id, self._keys, self._chunk_tokens = documents, kb_id, keys, chunk_tokens
        self._weight = 0

    def __iter__(self) -> Iterator[Source]:
        """Page by page, in the order of their keys."""
        if self._keys is not None and not self._keys:
            return
        for source, chunks in self._documents.live_sources(self._kb_id):
            if self._keys is None or source.key in self._keys:
                self._weight = chunks * self._chunk_tokens
                yield source

    def weigh(self, _source: Source) -> int:
        """Tokens of the source given last."""
        return self._weight


# ---------------------------------------------------------------------- the stages


def at_live_generation(items: Sequence[RunItem], run: Run, documents: Documents) -> tuple[list[RunItem], list[RunItem]]:
    """The items with the generation that readers see now; and those whose document is gone."""
    live = documents.live(run.kb.id, [item.key for item in items])
    found = [
        item.model_copy(update={"document_id": live[item.key][0], "generation": live[item.key][1]})
        for item in items
        if item.key in live
    ]
    return found, [item for item in items if item.key not in live]


def reindex(
    items: Sequence[RunItem],
    run: Run,
    *,
    documents: Documents,
    vectors: Vectors,
    store: IndexWriter,
    timeout: float,
    is_wanted: Callable[[], bool],
) -> BatchOutcome:
    """Write the items' live chunks to the run's index. Raises VectorsMissing, see :func:`write`, and Cancelled where
    the index is not wanted any more.

    What was replaced or deleted meanwhile goes again: whoever did that may have been there before us.
    """
    found, gone = at_live_generation(items, run, documents)
    chunks = documents.chunks([item.version for item in found])
    write(chunks, run.target, vectors=vectors, store=store, timeout=timeout)
    now = set(documents.live(run.kb.id, [item.key for item in found]).values()) if is_wanted() else set()
    dead = [chunk.id for chunk in chunks if (chunk.document_id, chunk.generation) not in now]
    if dead:
        store.delete(run.target, dead, timeout=timeout)
    if not is_wanted():
        raise Cancelled("The index was given up.")
    return BatchOutcome(
        done=tuple(item.number for item in found),
        unchanged=tuple(item.number for item in gone),
        chunks=len(chunks) - len(dead),
    )


def complete(run: Run, *, ledger: Ledger, indexes: Indexes, catch_up: Callable[[], None]) -> None:
    """End a run: switch to the index it has built, if nothing has failed. ``catch_up`` makes both indexes the same."""
    if run.status != "running":
        return
    if failed := ledger.progress(run.id).failed:
        left = f"{failed} documents could not be embedded: {run.kb.embedding_model} goes on answering."
        ledger.finish(run.id, "failed", error=Conflict(left, f"Mend the cause, then `manage.py runs retry {run.id}`."))
        return
    if run.kb.building == run.target:
        catch_up()
    if not indexes.switch(run.id, run.target):
        # Over already, or its index is: then this says so, and changes nothing in a run that has ended.
        lost = Conflict("The index was given up, or is in use already.", "See `manage.py kb show`.")
        ledger.finish(run.id, "failed", error=lost)


# ---------------------------------------------------------------------- giving up


def abandon(kb: KnowledgeBase, *, indexes: Indexes, store: IndexWriter, timeout: float) -> IndexRef:
    """Give up the index that is being built, and free it, but for one that is kept as the previous one; returns which.
    Raises Conflict where there is none.
    """
    if kb.building is None:
        raise Conflict(f"No index of {kb.name!r} is being built.", "See `manage.py kb show`.")
    indexes.stop(kb.id)
    kept = kb.building == kb.previous
    if not kept:
        store.drop(kb.building, timeout=timeout)  # first: were we to die here, it is known still
    indexes.give_up(kb.id)
    if not kept:
        store.drop(kb.building, timeout=timeout)  # a batch under way may have written once more
    return kb.building


def forget_previous(kb: KnowledgeBase, *, indexes: Indexes, store: IndexWriter, timeout: float) -> IndexRef:
    """Free the index that the present one has replaced; returns which. Raises Conflict where there is none."""
    if kb.previous is None:
        raise Conflict(f"{kb.name!r} has no previous index.", "See `manage.py kb show`.")
    if kb.previous == kb.building:
        raise Conflict(
            f"{kb.name!r} is going back to that index.", f"`manage.py kb reembed {kb.name} --abandon` stops it."
        )
    store.drop(kb.previous, timeout=timeout)
    indexes.forget(kb.previous)
    return kb.previous
