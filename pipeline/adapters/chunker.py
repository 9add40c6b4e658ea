"""Chunks of a bounded number of tokens, cut where the text itself pauses.

The document is tokenised once; after that the length of any stretch is a difference of two positions, so the time
is linear in the text whatever it is, and no chunk exceeds its size. (A splitter that measures each candidate anew
tokenises every character about seven times, and takes the square of the length on one endless line.)

Sizes are in tokens of the tokenizer that comes with the offline embedder: Llama 2's, about 3.5 characters of English
each. Tokenizers of hosted embedding models count about a fifth fewer.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pipeline.adapters.llama_tokens import Positions, token_starts
from pipeline.errors import BadSettings
from pipeline.types import Block, Chunk, ParsedDocument

SMALL_SHARE = 4
"""A section below size / SMALL_SHARE is joined with the next one."""
FILL_SHARE = 3
"""A chunk is filled to size / FILL_SHARE at least before a better place to cut is preferred to a later one."""

_MAX_CLUSTER_CHARS = 32
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
_PAUSES = (
    re.compile(r"\n[ \t]*\n\s*"),  # paragraphs
    re.compile(r"[.!?:;][\"')\]”’]*\n"),  # a sentence that ends with its line
    re.compile(r"\n"),  # lines: rows of tables, items, code
    re.compile(r"[.!?][\"')\]”’]*\s+|[。！？]"),  # sentences
    re.compile(r"\s+"),  # words
)
"""Where a chunk may end, best first; what a pattern matches belongs to what stands before it."""
_JOINING = re.compile(r"[\u200c\u200d\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")


class Stretch(NamedTuple):
    """text[start:end] on one page."""

    start: int
    end: int
    page: int | None


class TokenChunker:
    """Cuts a document into chunks of at most ``tokens`` tokens.

    Each repeats up to ``overlap`` tokens from the end of the one before. No chunk crosses a page, so that a
    citation's page is right. A chunk crosses into another section only to keep small sections from standing
    alone, and takes the section of its start.
    """

    def __init__(self, tokens: int, overlap: int = 0) -> None:
        """Keep the sizes; raises BadSettings where more than half of a chunk would be overlap."""
        if tokens < 1 or not 0 <= overlap * 2 <= tokens:
            hint = "Set CELERIAC_CHUNK_OVERLAP_TOKENS to at most half of CELERIAC_CHUNK_TOKENS."
            raise BadSettings(f"An overlap of {overlap} tokens does not go with chunks of {tokens}.", hint)
        self._tokens = tokens
        self._overlap = overlap

    def chunk(self, document: ParsedDocument) -> list[Chunk]:
        """Chunks in order, without white space around them; every other character of the text is in one."""
        text = _Text(document.text)
        blocks = document.blocks or (Block(start=0, end=len(document.text)),)
        starts = [block.start for block in blocks]
        chunks: list[Chunk] = []
        for stretch in _stretches(blocks, text, self._tokens // SMALL_SHARE):
            for start, end in text.cut(stretch, self._tokens, self._overlap):
                block = blocks[max(0, bisect_right(starts, start) - 1)]
                chunks.append(_chunk(len(chunks), text, start, end, block))
        return chunks


def count_tokens(text: str) -> int:
    """The length of ``text`` in tokens."""
    return len(token_starts(text))


def _chunk(ordinal: int, text: _Text, start: int, end: int, block: Block) -> Chunk:
    return Chunk.model_construct(  # made here, so there is nothing to check
        ordinal=ordinal,
        text=text.text[start:end],
        start=start,
        end=end,
        page=block.page,
        section=block.section,
        tokens=text.tokens(start, end),
    )


def _stretches(blocks: tuple[Block, ...], text: _Text, small: int) -> Iterator[Stretch]:
    """What may share chunks: blocks, those below ``small`` tokens together with a neighbour on their page."""
    ends = [*(block.start for block in blocks[1:]), len(text.text)]
    held: Stretch | None = None
    for start, end, block in zip([0, *ends], ends, blocks, strict=False):
        if held is None:
            held = Stretch(start, end, block.page)
        elif held.page == block.page and small > min(text.tokens(held.start, held.end), text.tokens(start, end)):
            held = held._replace(end=end)
        else:
            yield held
            held = Stretch(start, end, block.page)
    if held is not None:
        yield held


class _Text:
    """A text with the positions of its tokens and pauses."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._starts = token_starts(text)
        self._found: list[Positions] = []

    def _pauses(self) -> Iterator[Positions]:
        """Where each kind of pause ends, best first. Looked for when asked for: most texts need no more than two."""
        yield from self._found
        for pause in _PAUSES[len(self._found) :]:
            ends = np.array([found.end() for found in pause.finditer(self.text)], np.int64)
            self._found.append(_outside(ends, _fenced(self.text)) if pause is _PAUSES[0] else ends)
            yield self._found[-1]

    def tokens(self, start: int, end: int) -> int:
        """How many tokens begin in text[start:end]."""
        first, last = np.searchsorted(self._starts, (start, end))
        return int(last - first)

    def cut(self, stretch: Stretch, size: int, overlap: int) -> Iterator[tuple[int, int]]:
        """(start, end) of each chunk, white space trimmed."""
        start = done = stretch.start
        while done < stretch.end:
            end = self._end(start, done, stretch.end, size)
            piece = self.text[start:end]
            if body := piece.strip():
                start += len(piece) - len(piece.lstrip())
                yield start, start + len(body)
            start = self._restart(start, end, overlap) if overlap and body else end
            done = end

    def _end(self, start: int, done: int, stop: int, size: int) -> int:
        """Where the chunk that begins at ``start`` ends: at the best pause behind ``done`` that its size allows."""
        first, last = np.searchsorted(self._starts, (start, stop))
        left = int(last - first)
        if left <= size:
            return stop
        wanted = min(size, left // 2 + size // 8) if left < 2 * size else size  # two halves, no tiny rest
        limit = max(int(self._starts[first + wanted]), done + 1)
        if limit == stop:  # one character of more tokens than a chunk holds
            return stop
        floor = max(start + (limit - start) // FILL_SHARE, done)
        for pauses in self._pauses():
            at = int(np.searchsorted(pauses, limit, side="right")) - 1
            if at >= 0 and pauses[at] > floor:
                return int(pauses[at])
        return _before_cluster(self.text, floor, limit)

    def _restart(self, start: int, end: int, overlap: int) -> int:
        """Where the next chunk begins so that it repeats at most ``overlap`` tokens; always ahead of ``start``."""
        at = max(0, int(np.searchsorted(self._starts, end)) - overlap)
        earliest = max(int(self._starts[at]), start + (end - start + 1) // 2)
        for pauses in self._pauses():
            first = int(np.searchsorted(pauses, earliest))
            if first < len(pauses) and pauses[first] < end:
                return int(pauses[first])
        return end


def _before_cluster(text: str, floor: int, limit: int) -> int:
    """The last position up to ``limit`` that parts no character from its accents, or an emoji from its parts."""
    for at in range(limit, max(floor, limit - _MAX_CLUSTER_CHARS), -1):
        joined = unicodedata.combining(text[at]) or _JOINING.match(text[at]) or text[at - 1] == "\u200d"
        if not joined:
            return at
    return limit


def _fenced(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each fenced code block: a blank line in it is no end of a paragraph."""
    mark, start = "", 0
    for found in _FENCE.finditer(text):
        if not mark:
            mark, start = found[1], found.start()
        elif found[1].startswith(mark):
            yield start, found.end()
            mark = ""


def _outside(positions: Positions, spans: Iterator[tuple[int, int]]) -> Positions:
    kept = np.ones(len(positions), dtype=bool)
    for start, end in spans:
        first, last = np.searchsorted(positions, (start + 1, end))
        kept[first:last] = False
    return positions[kept]
