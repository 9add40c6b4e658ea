"""The stand-in's model: deterministic vectors, relevance and answers made of the words of the text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = {"text-embedding-3-large": 3072}
DEFAULT_DIMENSIONS = 1536
NO_PASSAGE = "None of the passages given answers this question."

_WORD = re.compile(r"\w+")
_MARKER = re.compile(r"^\s*\[(\d+)\]", re.MULTILINE)
_END = re.compile(r"\n\s*(?:</\w+>|Question:)")
_LAST_QUESTION = re.compile(r"^Last question: (.+)\nRewritten:\Z", re.MULTILINE)
_PERSON = re.compile(r"^Person: (.+)$", re.MULTILINE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_DIGESTS_PER_WORD = 4
_SHORT = 3


def dimensions_of(model: str) -> int:
    """Length of the vectors of ``model``."""
    return DIMENSIONS.get(model, DEFAULT_DIMENSIONS)


def tokens(text: str) -> int:
    """Tokens billed for ``text``: a quarter of its characters, at least one."""
    return max(1, len(text) // 4)


def vector(text: str, dimensions: int) -> NDArray[np.float32]:
    """Hashed bag of words, unit length, shape (dimensions,): texts that share words are near each other."""
    found = np.zeros(dimensions, dtype=np.float32)
    for word in _words(text) or [""]:
        for position, sign in _places(word):
            found[position % dimensions] += sign
    length = float(np.linalg.norm(found))
    return found / np.float32(length) if length else _unit(dimensions)


def relevance(question: str, text: str) -> float:
    """Share of the question's words, short ones left out, that the text holds, in [0, 1]."""
    wanted = {word for word in _words(question) if len(word) > _SHORT}
    return len(wanted & set(_words(text))) / len(wanted) if wanted else 0.0


def answer(messages: Sequence[str]) -> str:
    """The sentence that fits the question best, from the best of the numbered passages, with its marker."""
    prompt = "\n".join(messages)
    passages = _passages(prompt)
    if not passages:
        return NO_PASSAGE
    question = _question(prompt)
    number, text = max(passages, key=lambda pair: (relevance(question, pair[1]), -pair[0]))
    sentences = [sentence.strip() for sentence in _SENTENCE.split(text) if sentence.strip()]
    best = max(sentences or [text.strip()], key=lambda sentence: relevance(question, sentence))
    return f"{' '.join(best.split())} [{number}]"


def rewriting(messages: Sequence[str]) -> str | None:
    """A follow-up question with the words of the one before it; None where no rewriting is asked for."""
    prompt = "\n".join(messages)
    asked = _LAST_QUESTION.search(prompt)
    if asked is None:
        return None
    before = _PERSON.findall(prompt)
    return f"{asked[1]} ({before[-1]})" if before else asked[1]


def pieces(text: str, chunks: int) -> list[str]:
    """``text`` in so many pieces (0: one per word); too short a text is padded in front with dots."""
    words = re.findall(r"\s*\S+", text)
    if not chunks:
        return words
    if len(words) < chunks:
        return ["."] * (chunks - len(words)) + words
    bounds = np.linspace(0, len(words), chunks + 1).astype(int)
    return ["".join(words[start:end]) for start, end in pairwise(bounds)]


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


@lru_cache(maxsize=100_000)
def _places(word: str) -> tuple[tuple[int, float], ...]:
    digest = hashlib.blake2b(word.encode(), digest_size=4 * _DIGESTS_PER_WORD).digest()
    numbers = np.frombuffer(digest, dtype="<u4")
    return tuple((int(number >> 1), 1.0 if number & 1 else -1.0) for number in numbers)


def _unit(dimensions: int) -> NDArray[np.float32]:
    first = np.zeros(dimensions, dtype=np.float32)
    first[0] = 1.0
    return first


def _passages(prompt: str) -> list[tuple[int, str]]:
    found = list(_MARKER.finditer(prompt))
    ends = [*(match.start() for match in found), len(prompt)][1:]
    return [(int(match[1]), _body(prompt[match.end() : end])) for match, end in zip(found, ends, strict=True)]


def _body(passage: str) -> str:
    """A passage without its heading, which is the rest of the marker's line where more lines follow."""
    heading, _, text = _END.split(passage)[0].partition("\n")
    return text if text.strip() else heading


def _question(prompt: str) -> str:
    asked = re.findall(r"^The question by itself:\s*(.+)$", prompt, re.MULTILINE)
    asked = asked or re.findall(r"^\s*Question:\s*(.+)$", prompt, re.MULTILINE)
    return str(asked[-1]) if asked else prompt.rstrip().rsplit("\n", 1)[-1]
