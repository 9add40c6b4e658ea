from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.retrieve.reading import read
from pipeline.types import Parent, Passage

FIRST, SECOND = Parent(0, 9, "the first"), Parent(10, 20, "the second")


class Stored:
    """Two parents of two chunks each in document d, and a parent at the first's place in document e."""

    def texts(self, kb_id: str, chunk_ids: Sequence[str]) -> Mapping[str, str]:
        return {chunk: f"text of {chunk}" for chunk in chunk_ids if chunk != "gone"}

    def parents(self, kb_id: str, chunk_ids: Sequence[str]) -> Mapping[str, Parent]:
        stored = {"d1": FIRST, "d2": FIRST, "d3": SECOND, "d4": SECOND, "e1": FIRST}
        return {chunk: stored[chunk] for chunk in chunk_ids if chunk in stored}


def passage(chunk: str, score: float = 0.5) -> Passage:
    return Passage(chunk_id=chunk, document_id=chunk[0], title="T", page=3, start=4, end=6, score=score)


def test_a_passage_is_read_as_the_chunk_it_is() -> None:
    found = read([passage("d1"), passage("gone"), passage("d2")], "kb", texts=Stored())
    assert [(p.chunk_id, p.start, p.end, p.text) for p in found] == [
        ("d1", 4, 6, "text of d1"),
        ("d2", 4, 6, "text of d2"),
    ]
    assert read([], "kb", texts=Stored()) == ()


def test_a_passage_is_widened_to_its_parent_and_keeps_all_else() -> None:
    (found,) = read([passage("d3", 0.7)], "kb", texts=Stored(), parents=True)
    assert found == passage("d3", 0.7).model_copy(update={"start": 10, "end": 20, "text": "the second"})


def test_passages_of_one_parent_become_one_with_the_first_rank_and_the_best_score() -> None:
    ranked = [passage("d3", 0.2), passage("d2", 0.6), passage("gone"), passage("d4", 0.9), passage("d1", 0.1)]
    found = read(ranked, "kb", texts=Stored(), parents=True)
    assert [(p.chunk_id, p.score, p.text) for p in found] == [("d3", 0.9, "the second"), ("d2", 0.6, "the first")]


def test_equal_places_in_two_documents_are_two_passages() -> None:
    found = read([passage("d1"), passage("e1")], "kb", texts=Stored(), parents=True)
    assert [p.document_id for p in found] == ["d", "e"]
