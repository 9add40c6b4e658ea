"""What holds for every chunker."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.adapters.chunker import TokenChunker
from pipeline.ingest.cutting import cut
from pipeline.seams import Chunker
from pipeline.types import Block, ParsedDocument

PIECES = [
    "word ",
    "Sentence. ",
    "漢字仮名。",
    "👨‍👩‍👧‍👦",
    "e\u0301\u0327",
    "\n",
    "\n\n",
    " " * 50,
    "x" * 80,
    "```\n",
    "| a | b |\n",
    "مرحبا ",
]


def generated(seed: int) -> ParsedDocument:
    """A text of all kinds of pieces, in blocks of random length on rising pages."""
    dice = random.Random(seed)
    text = "".join(dice.choices(PIECES, k=dice.randint(1, 600)))
    cuts = sorted({0, *(dice.randrange(len(text)) for _ in range(dice.randint(0, 12)))})
    blocks = [
        Block(start=start, end=end, page=n // 3 + 1, section=f"S{n}")
        for n, (start, end) in enumerate(pairwise([*cuts, len(text)]))
    ]
    return ParsedDocument(text=text, blocks=tuple(blocks) if dice.random() < 0.7 else ())


def check(document: ParsedDocument, chunker: Chunker, overlapping: bool) -> None:
    """Exact spans, in order, in one piece, all of the text, page and section of the start."""
    chunks = cut(document, chunker)
    covered = bytearray(len(document.text))
    for piece in chunks:
        assert piece.text == piece.text.strip() != ""
        covered[piece.start : piece.end] = b"\1" * (piece.end - piece.start)
        block = next((b for b in reversed(document.blocks) if b.start <= piece.start), Block(start=0, end=0))
        assert (piece.page, piece.section) == (block.page, block.section)
    assert all(done or char.isspace() for done, char in zip(covered, document.text, strict=True))
    assert overlapping or all(before.end <= after.start for before, after in pairwise(chunks))


class ChunkerContract:
    """Inherit it and provide ``chunker``."""

    overlapping = False

    @pytest.fixture
    def chunker(self) -> Chunker:
        raise NotImplementedError

    @pytest.mark.parametrize("seed", range(60))
    def test_chunks_hold_all_of_any_text_at_exact_places(self, chunker: Chunker, seed: int) -> None:
        check(generated(seed), chunker, self.overlapping)

    @pytest.mark.parametrize("name", ["chatlogs", "state_of_the_union", "wikitexts"])
    def test_chunks_hold_all_of_a_real_text_at_exact_places(
        self, chunker: Chunker, name: str, shared_data: Path
    ) -> None:
        text = (shared_data / "chunking_eval" / "corpora" / f"{name}.md").read_text(encoding="utf-8")
        check(ParsedDocument(text=text), chunker, self.overlapping)

    @pytest.mark.parametrize("text", ["", " \n\t\n "])
    def test_a_document_without_text_has_no_chunks(self, chunker: Chunker, text: str) -> None:
        assert chunker.chunk(ParsedDocument(text=text)) == []


class TestTokenChunker(ChunkerContract):
    @pytest.fixture(params=[1, 16, 300])
    def chunker(self, request: pytest.FixtureRequest) -> Chunker:
        return TokenChunker(request.param)


class TestTokenChunkerWithOverlap(ChunkerContract):
    overlapping = True

    @pytest.fixture(params=[(16, 8), (300, 40)])
    def chunker(self, request: pytest.FixtureRequest) -> Chunker:
        return TokenChunker(*request.param)
