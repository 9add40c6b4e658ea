from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline.errors import InternalFault
from pipeline.ingest.cutting import cut
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
