from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.ingest.manifest import write_manifest
from pipeline.types import Source


class Ledger:
    """Keeps batches, and how much of the stream had been read when each was written."""

    def __init__(self) -> None:
        self.batches: dict[int, list[tuple[int, str]]] = {}

    def add(self, run_id: str, batch: int, sources: Iterable[tuple[int, Source]]) -> None:
        assert batch not in self.batches
        self.batches[batch] = [(number, source.key) for number, source in sources]


def record(key: str, tokens: int) -> Source:
    return Source(key=key, origin="/f", format="json", offset=0, length=4 * tokens)


def written(sources: Iterable[Source], max_documents: int = 3, max_tokens: int = 100) -> tuple[Ledger, list[int]]:
    ledger = Ledger()
    counts = list(write_manifest("r", sources, ledger=ledger, max_documents=max_documents, max_tokens=max_tokens))
    return ledger, counts


def test_batches_hold_so_many_documents_numbered_through() -> None:
    ledger, counts = written(record(f"k{n}", 1) for n in range(7))
    assert ledger.batches == {
        0: [(0, "k0"), (1, "k1"), (2, "k2")],
        1: [(3, "k3"), (4, "k4"), (5, "k5")],
        2: [(6, "k6")],
    }
    assert counts == [3, 6, 7]


def test_batches_hold_so_many_tokens_and_a_larger_source_is_alone() -> None:
    ledger, counts = written([record("a", 60), record("b", 40), record("c", 1), record("huge", 5000), record("d", 1)])
    assert [[key for _, key in batch] for batch in ledger.batches.values()] == [["a", "b"], ["c"], ["huge"], ["d"]]
    assert counts == [2, 3, 4, 5]


def test_few_sources_that_are_fetched_share_a_batch() -> None:
    """Their size isn't known, and each may take its time."""
    urls = (Source(key=f"u{n}", origin=f"https://example.org/{n}", format="html") for n in range(6))
    ledger, _ = written(urls, max_documents=128, max_tokens=100_000)
    assert [len(batch) for batch in ledger.batches.values()] == [4, 2]


def test_nothing_found_is_nothing_written() -> None:
    assert (written([])[0].batches, written([])[1]) == ({}, [])


def test_sources_are_written_while_they_are_found() -> None:
    """A million of them are never held at once."""
    taken: list[int] = []

    def found() -> Iterator[Source]:
        for n in range(10):
            taken.append(n)
            yield record(f"k{n}", 1)

    counts = write_manifest("r", found(), ledger=Ledger(), max_documents=3, max_tokens=100)
    assert next(counts) == 3
    assert len(taken) == 4


def test_a_whole_file_weighs_what_it_has_and_one_that_is_gone_nothing(tmp_path: Path) -> None:
    (tmp_path / "big.txt").write_text("x" * 320)
    files = [Source(key=name, origin=str(tmp_path / name), format="text") for name in ("big.txt", "gone.txt")]
    ledger, _ = written([*files, record("r", 30)])
    assert [[key for _, key in batch] for batch in ledger.batches.values()] == [["big.txt", "gone.txt"], ["r"]]
