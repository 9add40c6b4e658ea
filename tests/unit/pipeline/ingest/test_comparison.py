from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.errors import InternalFault
from pipeline.ingest.comparison import Pair, merge
from pipeline.seams import StoredEntry
from pipeline.types import ChunkRow


def row(chunk_id: str, *, live: bool = True) -> ChunkRow:
    return ChunkRow(chunk_id, "d", 1, live)


def entry(chunk_id: str, *, generation: int = 1, broken: str = "") -> StoredEntry:
    return StoredEntry(chunk_id, "d", generation, broken)


def shown(rows: str, entries: str) -> list[str]:
    """Pairs as two letters; ``-`` where a side has nothing, ``!`` where the entry is repeated."""
    pairs = merge([row(one) for one in rows], [entry(one) for one in entries])
    return [
        f"{p.row.chunk_id if p.row else '-'}{p.entry.chunk_id if p.entry else '-'}{'!' if p.repeated else ''}"
        for p in pairs
    ]


@pytest.mark.parametrize(
    ("rows", "entries", "pairs"),
    [
        ("", "", []),
        ("abc", "abc", ["aa", "bb", "cc"]),
        ("abc", "", ["a-", "b-", "c-"]),
        ("", "abc", ["-a", "-b", "-c"]),
        ("ace", "bdf", ["a-", "-b", "c-", "-d", "e-", "-f"]),
        ("bd", "abcde", ["-a", "bb", "-c", "dd", "-e"]),
        ("abcde", "bd", ["a-", "bb", "c-", "dd", "e-"]),
        ("abc", "abbbc", ["aa", "bb", "bb!", "bb!", "cc"]),
        ("ac", "abbc", ["aa", "-b", "-b!", "cc"]),
    ],
)
def test_two_streams_are_merged_by_id(rows: str, entries: str, pairs: list[str]) -> None:
    assert shown(rows, entries) == pairs


def test_entries_out_of_order_are_refused() -> None:
    """All that follows would look missing or orphaned."""
    with pytest.raises(InternalFault, match="chunk b after c"):
        shown("abc", "acb")


def test_rows_are_read_before_the_first_entry() -> None:
    """A chunk that goes live in between is in the store already, so that it can't look missing."""
    order: list[str] = []

    def rows() -> Iterator[ChunkRow]:
        order.append("rows")
        yield row("a")

    def entries() -> Iterator[StoredEntry]:
        order.append("entries")
        yield entry("a")

    assert len(list(merge(rows(), entries()))) == 1
    assert order == ["rows", "entries"]


@pytest.mark.parametrize(
    ("pair", "differs"),
    [
        (Pair(row("a"), entry("a")), False),
        (Pair(row("a"), None), True),
        (Pair(None, entry("a")), True),
        (Pair(row("a", live=False), None), False),
        (Pair(row("a", live=False), entry("a")), True),
        (Pair(row("a"), entry("a", generation=2)), True),
        (Pair(row("a"), entry("a", broken="no vector")), True),
        (Pair(row("a"), entry("a"), repeated=True), True),
    ],
)
def test_only_what_differs_gets_a_second_look(pair: Pair, differs: bool) -> None:
    assert pair.differs == differs
