"""Is in the vector store what Postgres says? Looks only; ``repair.py`` puts right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Literal, Protocol, get_args

from pipeline.ingest.comparison import Comparison, Difference, Truth
from pipeline.seams import Inspectable
from pipeline.types import DocumentFault, KnowledgeBase, Leftover, Value

Kind = Literal[
    "missing",
    "orphaned",
    "wrong_generation",
    "mismatched",
    "broken",
    "duplicate",
    "wrong_count",
    "empty",
    "leftover",
    "index",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

OnProgress = Callable[[str, int], None]
"""Told what is being done and how often it was done so far."""


class Ledger(Truth, Protocol):
    """What Postgres knows, of the store and of itself."""

    def document_faults(self, kb_id: str) -> Generator[DocumentFault, None, None]:
        """Documents with a wrong count of chunks, or live without one."""

    def size_fault(self, kb_id: str) -> str:
        """What is wrong with the knowledge base's own count; empty where nothing is."""

    def leftovers(self, kb_id: str) -> Generator[Leftover, None, None]:
        """Generations that no reader sees and no run will go on with."""


class Cache(Protocol):
    """Vectors paid for already."""

    def known(self, space: str, hashes: Sequence[str]) -> set[str]:
        """Those of ``hashes`` that have a vector."""


class Example(Value):
    """One of the things found; ``document`` is its key, where it has one."""

    document: str = ""
    chunk_id: str = ""
    detail: str = ""


class Findings(Value):
    """What is wrong with one knowledge base. ``counts`` has only kinds that were found.

    ``chunks`` are live in Postgres, ``stored`` are entries of the store, ``pending`` those of them that a run is at
    work on or may go on with: they are left alone. ``to_embed``: texts of chunks to be written again that have no
    vector in the cache. ``lost``: the store holds nothing at all, though it should.
    """

    chunks: int
    stored: int
    pending: int = 0
    to_embed: int = 0
    counts: dict[Kind, int] = {}
    examples: dict[Kind, tuple[Example, ...]] = {}

    @property
    def clean(self) -> bool:
        """Whether all is well; what is pending is not counted."""
        return not self.counts

    @property
    def lost(self) -> bool:
        """Whether the store has lost all of it."""
        return self.chunks > 0 and self.stored == 0


def inspect(
    kb: KnowledgeBase,
    *,
    ledger: Ledger,
    store: Inspectable,
    cache: Cache,
    timeout: float,
    examples: int = 3,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Compare both sides of ``kb``; safe while runs go on. ``timeout`` is for each page of the store.

    Memory is flat in the number of chunks. Raises UpstreamError where a side can't be read: no answer is no finding.
    """
    noted = _Notes(examples)
    comparison = Comparison(kb, truth=ledger, store=store, timeout=timeout)
    pending = to_embed = 0
    with closing(comparison.pages()) as pages:
        for page in pages:
            pending += noted.add_page(page)
            to_embed += _unknown(page, kb, cache)
            if on_progress:
                on_progress("compared", max(comparison.live, comparison.stored))
    _note_ledger(kb, ledger, noted)
    for line in store.faults(kb.index, timeout=timeout):
        noted.add("index", detail=line)
    return Findings(
        chunks=comparison.live,
        stored=comparison.stored,
        pending=pending,
        to_embed=to_embed,
        counts={kind: noted.counts[kind] for kind in KINDS if kind in noted.counts},
        examples={kind: tuple(noted.examples[kind]) for kind in KINDS if kind in noted.examples},
    )


class _Notes:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.counts: Counter[Kind] = Counter()
        self.examples: dict[Kind, list[Example]] = {}

    def add_page(self, page: Sequence[Difference]) -> int:
        """Note what is wrong; returns how many are pending."""
        pending = 0
        for one in page:
            if one.kind == "pending":
                pending += 1
            else:
                self.add(one.kind, one.document, one.chunk_id, one.detail)
        return pending

    def add(self, kind: Kind, document: str = "", chunk_id: str = "", detail: str = "") -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= self._limit:
            example = Example(document=document, chunk_id=chunk_id, detail=detail)
            self.examples.setdefault(kind, []).append(example)


def _note_ledger(kb: KnowledgeBase, ledger: Ledger, noted: _Notes) -> None:
    for fault in ledger.document_faults(kb.id):
        noted.add(fault.kind, fault.document, detail=fault.detail)
    size = ledger.size_fault(kb.id)
    if size:
        noted.add("wrong_count", detail=f"the knowledge base: {size}")
    for leftover in ledger.leftovers(kb.id):
        noted.add("leftover", leftover.document, detail=f"generation {leftover.generation}")


def _unknown(page: Sequence[Difference], kb: KnowledgeBase, cache: Cache) -> int:
    """How many texts of this page would have to be embedded; a text in two pages counts twice."""
    hashes = {one.embed_hash for one in page if one.kind in ("missing", "mismatched", "broken", "duplicate")}
    return len(hashes - cache.known(kb.vector_space, sorted(hashes))) if hashes else 0
