from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import groupby, pairwise

import pytest

from pipeline.errors import InternalFault
from pipeline.ingest.cutting import MAX_ALIAS_CHARS, context_of, cut, parents
from pipeline.types import Chunk, ParsedDocument

DOCUMENT = ParsedDocument(text="one two")
ONE = Chunk(ordinal=0, text="one", start=0, end=3)
TWO = Chunk(ordinal=1, text="two", start=4, end=7)


class Fixed:
    """A chunker that gives the chunks it was made with."""

    def __init__(self, *chunks: Chunk) -> None:
        self._chunks = chunks

    def chunk(self, document: ParsedDocument) -> list[Chunk]:
        return list(self._chunks)


def test_chunks_of_a_sound_chunker_pass() -> None:
    assert cut(DOCUMENT, Fixed(ONE, TWO)) == [ONE, TWO]


@pytest.mark.parametrize(
    "chunks",
    [
        [TWO],
        [ONE, ONE.model_copy(update={"ordinal": 1})],
        [ONE.model_copy(update={"text": "One"})],
        [ONE.model_copy(update={"text": " ", "start": 3, "end": 4})],
    ],
    ids=["misnumbered", "out of order", "not the document's text", "empty"],
)
def test_a_chunker_that_breaks_its_contract_is_a_defect(chunks: Sequence[Chunk]) -> None:
    with pytest.raises(InternalFault, match="chunker"):
        cut(DOCUMENT, Fixed(*chunks))


@pytest.mark.parametrize(
    ("title", "aliases", "section", "context"),
    [
        ("", (), "", ""),
        ("T", (), "", "T"),
        ("", (), "S", "S"),
        ("T", (), "S > U", "T > S > U"),
        ("T", (), "T > S", "T > S"),
        ("T", (), "T", "T"),
        ("Go", (), "Gobi > S", "Go > Gobi > S"),
        ("T", ("a", "b"), "S", "T (a, b) > S"),
        ("T", ("a",), "T > S", "T (a) > S"),
        ("", ("a",), "", "a"),
        ("T", ("t", "A", "a", " "), "", "T (A)"),
    ],
)
def test_the_context_of_a_chunk_names_what_it_is_about(
    title: str, aliases: tuple[str, ...], section: str, context: str
) -> None:
    assert context_of(title, aliases, section) == context


def test_of_many_aliases_whole_ones_are_kept_up_to_a_length() -> None:
    aliases = [f"alias {number}" for number in range(100)]
    context = context_of("T", aliases, "")
    assert len(context) <= MAX_ALIAS_CHARS + len("T ()")
    assert context.endswith("alias 20)")


def pieces(*places: tuple[int, str, int | None], overlap: int = 0) -> list[Chunk]:
    """Chunks of so many tokens, of one character each, in these sections and on these pages."""
    made: list[Chunk] = []
    for tokens, section, page in places:
        start = made[-1].end - overlap if made else 0
        end = start + tokens
        text = "x" * tokens
        made.append(
            Chunk(ordinal=len(made), text=text, start=start, end=end, page=page, section=section, tokens=tokens)
        )
    return made


@pytest.mark.parametrize("overlap", [0, 3])
@pytest.mark.parametrize("seed", range(20))
def test_parents_hold_their_chunks_and_keep_to_size_section_and_page(seed: int, overlap: int) -> None:
    chance = random.Random(seed)
    places = [(chance.randint(4, 40), chance.choice("AAAB"), chance.choice([1, 1, 1, 2, None])) for _ in range(60)]
    chunks = pieces(*places, overlap=overlap)
    spans = parents(chunks, 60)
    assert len(spans) == len(chunks)
    assert len(set(spans)) < len(chunks)
    groups = [(span, [chunk for chunk, _ in both]) for span, both in groupby(zip(chunks, spans, strict=True), _span)]
    for (start, end), group in groups:
        assert (start, end) == (group[0].start, group[-1].end)
        assert sum(chunk.tokens for chunk in group) <= 60
        assert len({(chunk.section, chunk.page) for chunk in group}) == 1
    for (one, members), (other, following) in pairwise(groups):
        assert other[0] == one[1] - overlap, "only what chunks repeat is in two parents"
        first = following[0]
        same_place = (members[-1].section, members[-1].page) == (first.section, first.page)
        assert not same_place or sum(chunk.tokens for chunk in members) + first.tokens > 60, "no parent is cut short"


def _span(both: tuple[Chunk, tuple[int, int]]) -> tuple[int, int]:
    return both[1]


def test_a_chunk_larger_than_a_parent_is_its_own() -> None:
    assert parents(pieces((5, "A", 1), (90, "A", 1), (5, "A", 1), (5, "A", 1)), 60) == [
        (0, 5),
        (5, 95),
        (95, 105),
        (95, 105),
    ]
    assert parents([], 60) == []


def test_a_parent_holds_a_chunk_that_ends_within_the_one_before() -> None:
    long, within = Chunk(ordinal=0, text="x" * 9, start=0, end=9), Chunk(ordinal=1, text="x", start=4, end=5)
    assert parents([long, within], 60) == [(0, 9), (0, 9)]
