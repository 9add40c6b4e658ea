from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline.errors import InternalFault
from pipeline.ingest.cutting import MAX_ALIAS_CHARS, context_of, cut
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
