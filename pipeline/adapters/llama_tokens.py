"""Tokens of the tokenizer that comes with the offline model (Llama 2's), word by word out of a cache.

That tokenizer knows no token that reaches over a space before a word, or over the start of a line: so the tokens of a
text are those of its pieces, and most pieces of a text were met before. Measured on the abstracts of scifact: the same
tokens, at the same places, in a fifth of the time.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pipeline.errors import InternalFault

Positions = NDArray[np.int64]
Tokens = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids, and where in the text each token starts."""

# A text is one of these after the other: a word with the spaces, or the ends of lines, before it. To the tokenizer a
# space and U+2581 are the same.
_PIECE = re.compile(r"[ ▁]+[^ ▁\n]*|\n+[^ ▁\n]*|[^ ▁\n]+")
_WORD = re.compile(r" [^ ▁\n]+")
_CACHED_PIECES = 100_000
_CACHED_CHARS = 32
# A piece may be a line of a megabyte without a space: the tokenizer takes the square of a length.
_WINDOW_CHARS = 16_384
_WORDS_AT_ONCE = _WINDOW_CHARS // _CACHED_CHARS - 1

_known: dict[str, Tokens] = {}
# What a text begins with has no other piece before it, and so other tokens.
_known_beginnings: dict[str, Tokens] = {}


def token_starts(text: str) -> Positions:
    """The position in ``text`` where each token begins, ascending."""
    starts: list[int] = []
    base = 0
    for piece, (_, offsets) in zip(*_pieces(text), strict=True):
        if len(offsets) == 1:  # its start: most words are one token
            starts.append(base)
        else:
            starts += [base + offset for offset in offsets]
        base += len(piece)
    return np.array(starts, np.int64)


def token_ids(text: str) -> list[int]:
    """The ids of the tokens of ``text``, without special ones."""
    return list(chain.from_iterable([ids for ids, _ in _pieces(text)[1]]))


def _pieces(text: str) -> tuple[list[str], list[Tokens]]:
    """The pieces of a text, and the tokens of each with places counted from the piece's start."""
    pieces: list[str] = _PIECE.findall(text)
    if not pieces:
        return [], []
    new = {piece for piece in pieces[1:] if piece not in _known}
    if new:
        _make_room(_known, len(new))
        words = [piece for piece in new if len(piece) <= _CACHED_CHARS and _WORD.fullmatch(piece)]
        for first in range(0, len(words), _WORDS_AT_ONCE):
            _learn_words(words[first : first + _WORDS_AT_ONCE])
    known = _known
    found = [_beginning(pieces[0]), *[known.get(piece) or _learned(piece) for piece in pieces[1:]]]
    _make_room(_known, 0)  # a single text may hold more words than are kept
    return pieces, found


def _beginning(piece: str) -> Tokens:
    tokens = _known_beginnings.get(piece)
    if tokens is None:
        tokens = _encoded(piece)
        if len(piece) <= _CACHED_CHARS:
            _make_room(_known_beginnings, 1)
            _known_beginnings[piece] = tokens
    return tokens


def _learn_words(words: list[str]) -> None:
    """Many words in one call of the tokenizer, which costs as much as the words do: one after the other, after a word
    of no consequence, they are a text.
    """
    ids, starts = _encoded("a" + "".join(words))
    at, end = 1, 1  # the token of "a", and where the words begin
    for word in words:
        end += len(word)
        first = at
        while at < len(starts) and starts[at] < end:
            at += 1
        begin = end - len(word)
        _known[word] = (ids[first:at], tuple(start - begin for start in starts[first:at]))


def _learned(piece: str) -> Tokens:
    tokens = _within(piece)
    if len(piece) <= _CACHED_CHARS:
        _known[piece] = tokens
    return tokens


def _make_room(known: dict[str, Tokens], wanted: int) -> None:
    if len(known) + wanted > _CACHED_PIECES:
        known.clear()


def _within(piece: str) -> Tokens:
    """The tokens of a piece that other text stands before. The tokenizer puts a space before whatever it gets."""
    if piece[0] == "\n":
        ids, starts = _encoded(piece)
        return ids[1:], starts[1:]
    if piece in (" ", "▁"):
        return _encoded("\n")[0][:1], (0,)
    ids, starts = _encoded(piece[1:])
    return ids, (0, *(start + 1 for start in starts[1:]))


def _encoded(text: str) -> Tokens:
    ids: list[int] = []
    starts: list[int] = []
    for base in range(0, len(text), _WINDOW_CHARS):
        encoding = tokenizer().encode(text[base : base + _WINDOW_CHARS], add_special_tokens=False)
        ids += encoding.ids
        starts += [base + start for start, _ in encoding.offsets]
    return tuple(ids), tuple(starts)


@cache
def tokenizer() -> Tokenizer:
    """The offline embedder's tokenizer, found in its package without importing the package."""
    found = importlib.util.find_spec("wordllama")
    folders = list(found.submodule_search_locations or ()) if found else []
    files = [path for folder in folders for path in sorted(Path(folder, "tokenizers").glob("*.json"))]
    if not files:
        raise InternalFault("The package wordllama holds no tokenizer.", "Install the project's dependencies anew.")
    loaded = Tokenizer.from_file(str(files[0]))
    loaded.no_truncation()
    loaded.no_padding()
    # A document that tells of "</s>" has a word of these letters, no end in its middle. As a token of its own it would
    # also change the tokens of the word after it, and these are learned for all texts.
    loaded.encode_special_tokens = True
    return loaded
