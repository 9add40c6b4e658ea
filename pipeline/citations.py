"""From the markers of an answer to the places they point at.

A marker is ``[2]``, ``[1, 3]``, ``[1-3]``, ``[^2]`` or ``【2】`` (with ``†source`` or without). Links, code and array
indices are left alone. In the text that comes out every marker is in the plain form, ``[1][3]``, and names a passage.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.sentences import Span, sentences
from pipeline.terms import terms
from pipeline.types import Citation, Passage

MAX_QUOTE_CHARS = 300
"""Of the beginning of a passage, quoted where no sentence of it shares a word with the answer."""

_NUMBERS = r"\d{1,3}(?:\s?[,;\u2013-]\s?\^?\d{1,3}){0,20}"
_MARKER = re.compile(rf"\[\s?\^?(?P<square>{_NUMBERS})\s?\]|【\s?(?P<wide>{_NUMBERS})(?:†[^【】\n]{{0,80}})?\s?】")
_RANGE = re.compile(r"(\d+)(?:\s?[\u2013-]\s?(\d+))?")
_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`", re.DOTALL)
# What follows a marker if it is a link, a definition, or an index of an array.
_LINK = re.compile(r"\(|:\s*https?://")
_INDEXING = re.compile(r"\s?(?:[-+*/]?=|[+*/<>])|\.\w|\(")

# A second sentence is quoted too if it supports this much more of the claim.
_WORTH_QUOTING = 0.15


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer's text with valid markers only, what they point to, and the markers that pointed nowhere.

    ``citations`` are by number, one for each, with the quote that supports best whatever cites it. Without any,
    the answer rests on nothing that a reader could look up.
    """

    text: str
    citations: tuple[Citation, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Marker:
    start: int
    end: int
    numbers: tuple[int, ...]  # of passages that exist
    unknown: bool


def check(text: str, passages: Sequence[Passage]) -> Checked:
    """Resolve the markers of ``text``; number n means ``passages[n - 1]``, which must have its text."""
    markers = list(_markers(text, len(passages)))
    claims = _claims(text, markers)
    cited = sorted({number for marker in markers for number in marker.numbers})
    return Checked(
        text=_plainly_marked(text, markers),
        citations=tuple(_citation(number, passages[number - 1], claims[number]) for number in cited),
        removed=tuple(text[marker.start : marker.end] for marker in markers if marker.unknown),
    )


def plain(text: str, passages: int) -> str:
    """``text`` as :func:`check` would leave it, of that many passages."""
    return _plainly_marked(text, list(_markers(text, passages)))


def _markers(text: str, count: int) -> Iterator[_Marker]:
    code = [found.span() for found in _CODE.finditer(text)]
    inside = 0
    for found in _MARKER.finditer(text):
        start, end = found.span()
        while inside < len(code) and code[inside][1] <= start:
            inside += 1
        in_code = inside < len(code) and code[inside][0] <= start
        if in_code or _is_something_else(text, start, end):
            continue
        named = list(_named(found["square"] or found["wide"]))
        if 0 in named:  # an interval or an index: citations count from 1
            continue
        valid = tuple(dict.fromkeys(number for number in named if number <= count))
        yield _Marker(start, end, valid, unknown=any(number > count for number in named))


def _is_something_else(text: str, start: int, end: int) -> bool:
    if _LINK.match(text, end):
        return True
    attached = start > 0 and (text[start - 1].isalnum() or text[start - 1] in "_)]")
    return attached and _INDEXING.match(text, end) is not None


def _named(numbers: str) -> Iterator[int]:
    for first, last in _RANGE.findall(numbers):
        # "[3-1]" and "[1-900]" are no ranges of passages; their ends are taken as they stand.
        if last and 0 <= int(last) - int(first) <= 20:
            yield from range(int(first), int(last) + 1)
        else:
            yield from (int(number) for number in (first, last) if number)


def _plainly_marked(text: str, markers: Sequence[_Marker]) -> str:
    pieces: list[str] = []
    position = 0
    for marker in markers:
        before = text[position : marker.start]
        pieces.append(before if marker.numbers else before.rstrip(" "))
        pieces.extend(f"[{number}]" for number in marker.numbers)
        position = marker.end
    pieces.append(text[position:])
    return "".join(pieces)


def _claims(text: str, markers: Sequence[_Marker]) -> dict[int, list[frozenset[str]]]:
    """Terms of the sentences that cite each number. A marker after a full stop belongs to what was said before it."""
    blanked = _blanked(text, markers)
    spans = sentences(blanked)
    claims: dict[int, list[frozenset[str]]] = {}
    current = 0
    for marker in markers:
        while current + 1 < len(spans) and spans[current + 1][0] <= marker.start:
            current += 1
        said = terms(blanked[slice(*spans[current])]) if spans else frozenset[str]()
        for number in marker.numbers:
            claims.setdefault(number, []).append(said)
    return claims


def _blanked(text: str, markers: Sequence[_Marker]) -> str:
    pieces: list[str] = []
    position = 0
    for marker in markers:
        pieces += (text[position : marker.start], " " * (marker.end - marker.start))
        position = marker.end
    return "".join((*pieces, text[position:]))


def _citation(number: int, passage: Passage, claims: Sequence[frozenset[str]]) -> Citation:
    start, end = _best_quote(passage.text, claims)
    return Citation(
        number=number,
        chunk_id=passage.chunk_id,
        document_id=passage.document_id,
        title=passage.title,
        source=passage.source,
        page=passage.page,
        section=passage.section,
        start=passage.start + start,
        end=passage.start + end,
        quote=passage.text[start:end],
    )


def _best_quote(text: str, claims: Sequence[frozenset[str]]) -> Span:
    """The sentence, or two in a row, that hold most of one claim's terms, the passage's rarer ones weighing more."""
    spans = sentences(text)
    held = [terms(text[start:end]) for start, end in spans]
    spread = Counter(term for one in held for term in one)
    best, score = _beginning(text), 0.0
    for claim in claims:
        weights = {term: 1 / spread[term] for term in claim if term in spread}
        singles = [_support(one, weights) for one in held]
        pairs = [_support(one | following, weights) for one, following in pairwise(held)]
        if singles and (top := max(singles)) > score:
            best, score = spans[singles.index(top)], top
            if pairs and max(pairs) > (1 + _WORTH_QUOTING) * top:
                first = pairs.index(max(pairs))
                best = spans[first][0], spans[first + 1][1]
    return best


def _support(held: frozenset[str], weights: dict[str, float]) -> float:
    return sum(weights[term] for term in sorted(held & weights.keys()))


def _beginning(text: str) -> Span:
    start = len(text) - len(text.lstrip())
    end = min(len(text.rstrip()), start + MAX_QUOTE_CHARS)
    if end < len(text.rstrip()):
        blank = text.rfind(" ", start + MAX_QUOTE_CHARS // 2, end)
        end = blank if blank > 0 else end
    return (start, start + len(text[start:end].rstrip())) if end > start else (0, 0)
