"""Postgres and a vector store side by side: two streams in the order of chunk ids, merged in flat memory.

The order of reading is what makes a difference mean something while runs go on. A chunk is in the store before it is
live, and leaves the store after it is not. So the rows are read first, as of one moment, then the entries; and
whatever differs is looked at in Postgres once more before it counts.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Literal, NamedTuple, Protocol

from pipeline.errors import InternalFault
from pipeline.seams import Inspectable, StoredEntry
from pipeline.types import ChunkRow, ChunkState, KnowledgeBase

DifferenceKind = Literal["missing", "orphaned", "wrong_generation", "mismatched", "broken", "duplicate", "pending"]
WRITTEN_AGAIN: tuple[DifferenceKind, ...] = ("missing", "mismatched", "broken", "duplicate")
"""What is put right by writing the chunk once more."""

# Differences looked at again in one query.
_PAGE = 1000
# Chunks after which a caller hears of progress though nothing differs.
_STRETCH = 20_000


class Truth(Protocol):
    """Chunks as Postgres has them."""

    def chunks(self, kb_id: str) -> Generator[ChunkRow, None, None]:
        """All chunks in the order of their ids, as of one moment; holds a connection until it is closed."""

    def states(self, kb_id: str, chunk_ids: Sequence[str]) -> dict[str, ChunkState]:
        """How these chunks stand now."""


class Pair(NamedTuple):
    """What both sides have under one id; None: nothing."""

    row: ChunkRow | None
    entry: StoredEntry | None
    repeated: bool = False

    @property
    def differs(self) -> bool:
        """Whether it needs a second look."""
        if self.row is None or not self.row.live:
            return self.entry is not None
        return self.repeated or self.entry is None or bool(self.entry.broken) or not self._same

    @property
    def _same(self) -> bool:
        assert self.row is not None
        assert self.entry is not None
        return self.row[1:3] == self.entry[1:3]


class Difference(NamedTuple):
    """A difference that was confirmed; ``document`` is a key, or what the store says of it where Postgres has none."""

    kind: DifferenceKind
    chunk_id: str
    document: str = ""
    detail: str = ""
    embed_hash: str = ""


class Comparison:
    """One pass over both sides. ``live`` and ``stored`` count what has passed so far."""

    def __init__(self, kb: KnowledgeBase, *, truth: Truth, store: Inspectable, timeout: float) -> None:
        """``timeout`` is for each page of the store."""
        self._kb, self._truth, self._store, self._timeout = kb, truth, store, timeout
        self.live = self.stored = 0

    def pages(self) -> Generator[list[Difference], None, None]:
        """Confirmed differences; a page without any tells that it goes on. A page was confirmed just now."""
        suspects: list[Pair] = []
        passed = 0
        with closing(self._truth.chunks(self._kb.id)) as rows:
            for pair in merge(rows, self._store.entries(self._kb.index, timeout=self._timeout)):
                passed += 1
                self._count(pair)
                if pair.differs:
                    suspects.append(pair)
                if len(suspects) == _PAGE or passed == _STRETCH:
                    yield self._confirmed(suspects)
                    suspects, passed = [], 0
        yield self._confirmed(suspects)

    def _count(self, pair: Pair) -> None:
        self.live += pair.row is not None and pair.row.live and not pair.repeated
        self.stored += pair.entry is not None

    def _confirmed(self, suspects: Sequence[Pair]) -> list[Difference]:
        if not suspects:
            return []
        ids = [_id(pair) for pair in suspects]
        states = self._truth.states(self._kb.id, list(dict.fromkeys(ids)))
        found = (_difference(pair, states.get(chunk_id)) for chunk_id, pair in zip(ids, suspects, strict=True))
        return [difference for difference in found if difference is not None]


def merge(rows: Iterable[ChunkRow], entries: Iterable[StoredEntry]) -> Iterator[Pair]:
    """Pairs by chunk id, ascending; an entry whose id came just before is ``repeated``. Raises InternalFault where
    entries are out of order, since all that follows would be nonsense.
    """
    truth = iter(rows)
    row = next(truth, None)  # before the first entry is read, see above
    before: Pair | None = None
    last = ""
    for entry in entries:
        if entry.chunk_id < last:
            raise InternalFault(f"The store gave chunk {entry.chunk_id} after {last}, so it can't be compared.")
        if entry.chunk_id == last and before is not None:
            yield Pair(before.row, entry, repeated=True)
            continue
        while row is not None and row.chunk_id < entry.chunk_id:
            yield Pair(row, None)
            row = next(truth, None)
        both = row is not None and row.chunk_id == entry.chunk_id
        before, last = Pair(row if both else None, entry), entry.chunk_id
        yield before
        row = next(truth, None) if both else row
    while row is not None:
        yield Pair(row, None)
        row = next(truth, None)


def _id(pair: Pair) -> str:
    side = pair.row or pair.entry
    assert side is not None
    return side.chunk_id


def _difference(pair: Pair, state: ChunkState | None) -> Difference | None:
    """What it is in the light of ``state``; None: the run at work has put it right meanwhile."""
    entry = pair.entry
    if state is None:
        return None if entry is None else Difference("orphaned", entry.chunk_id, entry.document_id, entry.broken)
    kind, detail = _judge(entry, state, repeated=pair.repeated)
    return kind and Difference(kind, _id(pair), state.document, detail, state.embed_hash)


def _judge(entry: StoredEntry | None, state: ChunkState, *, repeated: bool) -> tuple[DifferenceKind | None, str]:
    if state.standing != "live":
        return _not_live(entry, state)
    if entry is None:
        return "missing", ""
    if repeated:
        return "duplicate", ""
    if entry.broken:
        return "broken", entry.broken
    if (entry.document_id, entry.generation) != (state.document_id, state.generation):
        return "mismatched", f"the store says document {entry.document_id}, generation {entry.generation}"
    return None, ""


def _not_live(entry: StoredEntry | None, state: ChunkState) -> tuple[DifferenceKind | None, str]:
    if entry is None:
        return None, ""
    if state.standing == "pending":
        return "pending", ""
    return "wrong_generation", f"generation {state.generation}, {state.standing}"
