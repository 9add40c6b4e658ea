from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.adapters.chunker import TokenChunker, count_tokens
from pipeline.errors import BadSettings
from pipeline.types import Block, Chunk, ParsedDocument

PARAGRAPH = "The quick brown fox jumps over the lazy dog. " * 4


def chunks(text: str, tokens: int, overlap: int = 0) -> list[Chunk]:
    return TokenChunker(tokens, overlap).chunk(ParsedDocument(text=text))


def sectioned(*parts: tuple[str, int | None, str]) -> ParsedDocument:
    text, blocks = "", []
    for part, page, section in parts:
        start = len(text) + 2 if text else 0
        text = f"{text}\n\n{part}" if text else part
        blocks.append(Block(start=start, end=len(text), page=page, section=section))
    return ParsedDocument(text=text, blocks=tuple(blocks))


def test_tokens_are_counted_as_the_offline_embedder_counts_them() -> None:
    assert count_tokens("Hello world") == 2
    assert count_tokens("") == 0
    assert count_tokens("word " * 10_000) == pytest.approx(10_000, rel=0.01)


def test_no_chunk_exceeds_its_size_by_more_than_the_tokens_at_its_edges(shared_data: Path) -> None:
    text = (shared_data / "chunking_eval" / "corpora" / "wikitexts.md").read_text(encoding="utf-8")
    pieces = chunks(text, 100)
    assert max(count_tokens(piece.text) for piece in pieces) <= 103
    assert all(abs(count_tokens(piece.text) - piece.tokens) <= 3 for piece in pieces)
    assert min(piece.tokens for piece in pieces) >= 20


def test_paragraphs_stay_whole_where_they_fit() -> None:
    paragraphs = [PARAGRAPH.strip()] * 6
    assert [piece.text for piece in chunks("\n\n".join(paragraphs), count_tokens(PARAGRAPH) + 5)] == paragraphs


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    assert all(piece.text.endswith("dog.") for piece in chunks(PARAGRAPH * 10, 60))


def test_code_is_kept_in_one_piece_where_it_fits() -> None:
    """A blank line in a fence is no place to cut while a paragraph's end is near."""
    code = "```python\n" + "\n\n".join(f"x{n} = {n}" for n in range(6)) + "\n```"
    text = f"{PARAGRAPH}\n\n{code}\n\n{PARAGRAPH}"
    assert any(code in piece.text for piece in chunks(text, count_tokens(PARAGRAPH + code) - 15))


def test_rows_of_a_table_stay_whole() -> None:
    rows = [f"| row {n} | {n * 1000} | text of the cell |" for n in range(100)]
    assert "\n".join(piece.text for piece in chunks("\n".join(rows), 60)) == "\n".join(rows)


def test_the_last_chunk_is_no_tiny_rest() -> None:
    pieces = chunks("word " * 105, 100)
    assert len(pieces) == 2
    assert min(piece.tokens for piece in pieces) > 30


def test_sections_are_not_mixed_when_they_are_large_enough() -> None:
    document = sectioned((PARAGRAPH, None, "A"), (PARAGRAPH, None, "B"))
    assert [piece.section for piece in TokenChunker(count_tokens(PARAGRAPH) * 3).chunk(document)] == ["A", "B"]


def test_small_sections_are_joined() -> None:
    document = sectioned(("# Guide", None, "Guide"), ("## A", None, "A"), (PARAGRAPH, None, "A"), ("End.", None, "B"))
    assert [piece.section for piece in TokenChunker(100).chunk(document)] == ["Guide"]


def test_no_chunk_crosses_a_page() -> None:
    document = sectioned(("Title", 1, ""), (PARAGRAPH * 3, 2, ""), ("End.", 3, ""))
    assert [piece.page for piece in TokenChunker(80).chunk(document)] == [1, 2, 2, 3]


def test_overlap_repeats_whole_sentences_from_the_end_of_the_chunk_before() -> None:
    pieces = chunks(" ".join(f"Sentence number {n} is here." for n in range(60)), 100, 30)
    for before, after in pairwise(pieces):
        assert before.start < after.start < before.end < after.end
        assert after.text.startswith("Sentence")


@pytest.mark.parametrize(("tokens", "overlap"), [(0, 0), (100, 51), (100, -1)])
def test_sizes_that_do_not_go_together_are_refused(tokens: int, overlap: int) -> None:
    with pytest.raises(BadSettings, match="overlap"):
        TokenChunker(tokens, overlap)


def test_characters_are_not_parted_from_their_accents_or_emoji_from_their_parts() -> None:
    family, accented = "👨‍👩‍👧‍👦", "q\u0301\u0327"
    assert all(len(piece.text) % len(family) == 0 for piece in chunks(family * 200, 100))
    assert all(len(piece.text) % len(accented) == 0 for piece in chunks(accented * 500, 100))


@pytest.mark.parametrize(
    "text",
    [
        "a" * 2_000_000,
        "lorem ipsum " * 150_000,
        "漢字" * 200_000,
        " " * 1_000_000 + "x",
        "```\n\n" * 50_000,
        '."' * 300_000,
    ],
    ids=["one word", "one line", "no spaces", "only spaces", "fences", "stops"],
)
def test_time_is_linear_whatever_the_text(text: str) -> None:
    """About 2 MB/s on one core; a splitter that is quadratic here takes minutes."""
    started = time.process_time()
    pieces = chunks(text, 300)
    assert time.process_time() - started < 20
    assert max(piece.tokens for piece in pieces) <= 300


def test_the_embedder_itself_is_not_imported_to_count_tokens() -> None:
    program = "import sys, pipeline.adapters.chunker as c; c.count_tokens('x'); print('wordllama' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
