"""Puts a vector store right after Postgres: page by page, and a page may be repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeVar

from pipeline.errors import CeleriacError, InternalFault, ModelMismatch
from pipeline.ingest import inspection
from pipeline.ingest.comparison import WRITTEN_AGAIN, Comparison, Difference, DifferenceKind
from pipeline.ingest.inspection import OnProgress
from pipeline.ingest.removal import delete
from pipeline.ingest.writing import entries_of
from pipeline.seams import Embedder, IndexWriter, Inspectable
from pipeline.types import KnowledgeBase, Leftover, StoredChunk, Value, Vector

_TAKEN_OUT: tuple[DifferenceKind, ...] = ("orphaned", "wrong_generation")
# Documents put right in one statement; their generations may have thousands of chunks each.
_DOCUMENTS = 200
# Chunks taken out of the store in one call.
_CHUNKS = 1000

T = TypeVar("T")


class Store(Inspectable, IndexWriter, Protocol):
    """A store that can be compared and changed."""


class Ledger(inspection.Ledger, Protocol):
    """What Postgres knows, and how it is put right."""

    def live(self, kb_id: str, chunk_ids: Sequence[str]) -> list[StoredChunk]:
        """Those of these chunks that belong to live generations, with their texts."""

    def leftover_chunks(self, leftovers: Sequence[Leftover]) -> list[str]:
        """Ids of the chunks of these generations."""

    def forget(self, kb_id: str, leftovers: Sequence[Leftover]) -> int:
        """Delete those of these generations that are leftovers still; returns how many."""

    def recount(self, document_ids: Sequence[str]) -> None:
        """Count the live chunks of these documents anew."""

    def withdraw(self, document_ids: Sequence[str], error: CeleriacError) -> None:
        """Mark these documents as failed; not those that have a live chunk."""


class Cache(inspection.Cache, Protocol):
    """Vectors by space (model and size) and text hash."""

    def load(self, space: str, hashes: Sequence[str]) -> Mapping[str, Vector]:
        """Vectors by hash."""

    def save(self, space: str, vectors: Mapping[str, Vector]) -> None:
        """Add vectors by hash."""


class KnowledgeBases(Protocol):
    """The catalogue."""

    def refresh_size(self, kb_id: str) -> None:
        """Count its chunks anew."""

    def changed(self, kb_id: str) -> None:
        """Count a change of what a question can find."""


class Repaired(Value):
    """What was done: chunks ``written`` to and ``deleted`` from the store, texts ``embedded``, documents ``recounted``
    or ``withdrawn`` (they have lost their chunks: ingest them again), leftover generations ``forgotten``, and whether
    the index as a whole was ``mended``.
    """

    written: int = 0
    deleted: int = 0
    embedded: int = 0
    recounted: int = 0
    withdrawn: int = 0
    forgotten: int = 0
    mended: bool = False


def repair(
    kb: KnowledgeBase,
    *,
    ledger: Ledger,
    store: Store,
    cache: Cache,
    embedder: Embedder | None,
    knowledge_bases: KnowledgeBases,
    timeout: float,
    embed_timeout: float,
    on_progress: OnProgress | None = None,
) -> Repaired:
    """Put right what :func:`inspect` finds; safe while runs go on, and may be stopped and repeated at any time.

    ``embedder`` is for texts without a vector in the cache; where it is None such a text raises ModelMismatch.
    ``timeout`` is for each page of the store. An error ends it: a store that doesn't answer is never taken for empty.
    """
    work = _Repair(kb, ledger, store, cache, embedder, timeout, embed_timeout, on_progress)
    mended = False
    try:
        work.put_chunks_right()
        work.put_documents_right()
        work.forget_leftovers()  # after documents: what is withdrawn leaves a generation
        knowledge_bases.refresh_size(kb.id)
        mended = bool(store.faults(kb.index, timeout=timeout))
        if mended:
            store.mend(kb.index, timeout=timeout)
    finally:
        if mended or work.done:
            knowledge_bases.changed(kb.id)
    return Repaired(mended=mended, **work.done)


def catch_up(
    kb: KnowledgeBase,
    *,
    ledger: Ledger,
    store: Store,
    cache: Cache,
    embedder: Embedder,
    timeout: float,
    embed_timeout: float,
) -> None:
    """Make the index of ``kb`` hold the live chunks, and no dead ones; the first part of :func:`repair`."""
    _Repair(kb, ledger, store, cache, embedder, timeout, embed_timeout, None).put_chunks_right()


@dataclass(frozen=True)
class _Repair:
    kb: KnowledgeBase
    ledger: Ledger
    store: Store
    cache: Cache
    embedder: Embedder | None
    timeout: float
    embed_timeout: float
    on_progress: OnProgress | None
    done: Counter[str] = field(default_factory=Counter)

    def put_chunks_right(self) -> None:
        """Take dead entries out of the store, and write live chunks that it lacks or has wrong."""
        comparison = Comparison(self.kb, truth=self.ledger, store=self.store, timeout=self.timeout)
        with closing(comparison.pages()) as pages:
            for page in pages:
                self._take_out([one.chunk_id for one in page if one.kind in _TAKEN_OUT])
                self._write_again(page)

    def put_documents_right(self) -> None:
        """Counts anew; a document that is live without a chunk is shown as failed, to be ingested again."""
        lost = InternalFault("Its chunks are gone from Postgres.", "Ingest it again.")
        with closing(self.ledger.document_faults(self.kb.id)) as faults:
            for page in _pages(faults, _DOCUMENTS):
                empty = [fault.document_id for fault in page if fault.kind == "empty"]
                self.ledger.withdraw(empty, lost)
                self._count("withdrawn", len(empty))
                miscounted = [fault.document_id for fault in page if fault.kind == "wrong_count"]
                self.ledger.recount(miscounted)
                self._count("recounted", len(miscounted))

    def forget_leftovers(self) -> None:
        """Delete generations: first their chunks in the store, then the rows that say what to delete."""
        with closing(self.ledger.leftovers(self.kb.id)) as leftovers:
            for page in _pages(leftovers, _DOCUMENTS):
                for chunk_ids in _pages(self.ledger.leftover_chunks(page), _CHUNKS):
                    delete(chunk_ids, self.kb.all_indexes, store=self.store, timeout=self.timeout)
                self._count("forgotten", self.ledger.forget(self.kb.id, page))

    def _take_out(self, chunk_ids: Sequence[str]) -> None:
        # Postgres has just said that they are dead; no run can bring them to life again.
        if chunk_ids:
            self.store.delete(self.kb.index, chunk_ids, timeout=self.timeout)
            self._count("deleted", len(chunk_ids))

    def _write_again(self, page: Sequence[Difference]) -> None:
        wanted = list(dict.fromkeys(one.chunk_id for one in page if one.kind in WRITTEN_AGAIN))
        if not wanted:
            return
        doubled = [one.chunk_id for one in page if one.kind == "duplicate"]
        chunks = self.ledger.live(self.kb.id, wanted)
        entries = entries_of(chunks, self._vectors({chunk.embed_hash: chunk.indexed_text for chunk in chunks}))
        self.store.delete(self.kb.index, doubled, timeout=self.timeout)
        self.store.upsert(self.kb.index, entries, timeout=self.timeout)
        self._count("written", len(entries))
        # What a run has replaced while we wrote goes again: the run may have deleted it before we wrote.
        now = self.ledger.states(self.kb.id, wanted)
        late = [chunk.id for chunk in chunks if chunk.id not in now or now[chunk.id].standing != "live"]
        self.store.delete(self.kb.index, late, timeout=self.timeout)

    def _vectors(self, texts: Mapping[str, str]) -> Mapping[str, Vector]:
        found = self.cache.load(self.kb.vector_space, list(texts))
        unknown = [key for key in texts if key not in found]
        if not unknown:
            return found
        embedded = dict(zip(unknown, self._embed([texts[key] for key in unknown]), strict=True))
        self.cache.save(self.kb.vector_space, embedded)
        self._count("embedded", len(unknown))
        return {**found, **embedded}

    def _embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        if self.embedder is None or self.embedder.model != self.kb.embedding_model:
            raise ModelMismatch(
                f"{len(texts)} texts have no vector in the cache and must be embedded by {self.kb.embedding_model}.",
                "Run it again: that model is then made ready.",
            )
        vectors = self.embedder.embed(texts, timeout=self.embed_timeout).vectors
        wrong = next((len(vector) for vector in vectors if len(vector) != self.kb.dimensions), None)
        if wrong is not None:
            raise ModelMismatch(
                f"The embedding model gave {wrong} dimensions, the knowledge base has {self.kb.dimensions}.",
                f"Set CELERIAC_EMBEDDING_DIMENSIONS={self.kb.dimensions} and run it again.",
            )
        return vectors

    def _count(self, what: str, count: int) -> None:
        self.done[what] += count
        if self.on_progress and count:
            self.on_progress(what, self.done[what])


def _pages(values: Iterable[T], size: int) -> Iterator[list[T]]:
    each = iter(values)
    while page := list(islice(each, size)):
        yield page
