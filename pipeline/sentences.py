"""Where the sentences of a text begin and end.

Written for what documents hold: prose with wrapped lines (PDF), Markdown with headings, lists, tables and code,
and scripts that put no space after a full stop. Time is linear in the length of the text, whatever is in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Span = tuple[int, int]

MAX_CHARS = 600
"""Longer sentences are cut between words: a log or a minified file may hold no full stop at all."""

_NARROWEST_COLUMN = 40
"""Characters; shorter lines are titles, entries or verse, not wrapped prose."""

_FENCE = re.compile(r"[ \t]*(```|~~~)")
_LIST_ITEM = re.compile(r"[ \t]*(?:[-*+•◦▪]|\(?(?:\d{1,3}|[a-zA-Z])[.)])[ \t]")
_STRUCTURE = re.compile(r"[ \t]*(?:#{1,6}[ \t]|\||[-=_*]{3,}[ \t]*$)")
_QUOTED = re.compile(r"[ \t]*>")

# Matched greedily and judged by what follows: a look-ahead would make a long run of dots quadratic.
_WIDE_STOP = r"[。！？｡।]+[」』”’）】》]*"
_STOP = re.compile(rf"(?P<wide>{_WIDE_STOP})|[.!?…؟۔]+[\"'”’»)\]*_]*")
_OPENING = "\"'“‘«([*_ \t\r\n\f\v"
_LAST_WORD = re.compile(r"([^\W\d_]+(?:\.[^\W\d_]+)*|\d+)$")
_INITIAL = re.compile(r"[^\W\d_]\.")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ABBREVIATIONS = _words(
    "al approx art bd bzw ca cf ch co corp dept dr ed eds eg eq eqs etc ex fig figs gen gov hr ie inc jr lt ltd max min"
    " mme mr mrs ms mt nr no nos op p par pp prof ref refs rep rev sec sen sr st str tab univ usw vgl vol vols vs"
    " jan feb mar apr jun jul aug sep sept oct nov dec"
)
_NEVER_LAST = _words("cf dr eg fig figs ie mme mr mrs ms prof vgl vs")
# After "U.S." or "p.m." only a word like these shows that a sentence has begun.
_OPENERS = _words(
    "a after all although an and as at both but by during each for from he her his however how if in it its many most"
    " no on one our she since so some such that the their there these they this those to under we what when where"
    " while who why with you your"
)


def sentences(text: str) -> list[Span]:
    """Spans ``(start, end)`` of the sentences of ``text``, in order, without the white space around them.

    Every other character lies in exactly one span. A heading, a list item, a row of a table and a line of code each
    end where their line ends; a line of prose goes on in the next one if it was wrapped.
    """
    spans: list[Span] = []
    for start, end in _stretches(text):
        for sentence in _by_full_stop(text, start, end):
            spans.extend(_within_limit(text, *sentence))
    return spans


def _stretches(text: str) -> Iterator[Span]:
    """Runs of lines that hold together."""
    in_fence = False
    for paragraph in _paragraphs(text):
        width = max(end - start for start, end in paragraph)
        begin = paragraph[0][0]
        for (start, end), following in zip(paragraph, [*paragraph[1:], None], strict=True):
            is_fence = _FENCE.match(text, start, end) is not None
            in_fence ^= is_fence
            alone = in_fence or is_fence or _STRUCTURE.match(text, start, end) is not None
            if following is None or alone or _breaks(text, (start, end), following, width):
                yield begin, end
                begin = following[0] if following else end


def _paragraphs(text: str) -> Iterator[list[Span]]:
    """Lines that aren't blank, without their line ends, in runs that a blank line parts."""
    run: list[Span] = []
    position = 0
    for line in text.splitlines(keepends=True):
        start, position = position, position + len(line)
        if not line.isspace():
            run.append((start, start + len(line.rstrip())))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _breaks(text: str, line: Span, following: Span, width: int) -> bool:
    """Whether the line after ``line`` is a new beginning rather than its continuation."""
    begins_block = any(rule.match(text, *following) for rule in (_LIST_ITEM, _STRUCTURE, _FENCE))
    if begins_block or (_QUOTED.match(text, *following) and not _QUOTED.match(text, *line)):
        return True
    head = text[following[0] : following[0] + 40].lstrip()
    first_word = head.split(maxsplit=1)[0] if head else ""
    # Whoever wraps fills the line: where the next word would easily have fitted, the break is meant.
    has_room = line[1] - line[0] + 1 + len(first_word) < max(0.7 * width, _NARROWEST_COLUMN)
    return has_room and not head[:1].islower()


def _by_full_stop(text: str, start: int, end: int) -> Iterator[Span]:
    begin = start
    for stop in _STOP.finditer(text, start, end):
        if stop["wide"] or _ends_sentence(text, begin, stop.start(), stop.end(), end):
            yield begin, stop.end()
            begin = stop.end()
    yield begin, end


def _ends_sentence(text: str, begin: int, stop: int, after: int, end: int) -> bool:
    if after >= end:
        return True
    if not text[after].isspace():
        return False
    following = text[after : min(after + 40, end)].lstrip(_OPENING)
    if following[:1].islower():
        return False
    if text[stop:after] != ".":
        return True
    return not _abbreviates(text[max(begin, stop - 24) : stop].lstrip(), following)


def _abbreviates(before: str, following: str) -> bool:
    """Whether the full stop after ``before`` belongs to its last word."""
    found = _LAST_WORD.search(before)
    if not found:
        return False
    word = found[1]
    if word.isdigit():
        return found.start() == 0 and len(word) <= 3  # the number of a list item
    opener = following.split(maxsplit=1)[0].rstrip(".,;:").lower() if following else ""
    if len(word) == 1:
        return bool(_INITIAL.match(following)) or (word.isupper() and word != "I" and opener not in _OPENERS)
    if "." in word:
        return opener not in _OPENERS
    known = word.lower()
    return known in _NEVER_LAST or (known in _ABBREVIATIONS and opener not in _OPENERS)


def _within_limit(text: str, start: int, end: int) -> Iterator[Span]:
    """The stretch without white space around it, in pieces of at most ``MAX_CHARS``."""
    while start < end:
        piece = text[start : min(end, start + MAX_CHARS + 1)]
        skipped = len(piece) - len(piece.lstrip())
        if skipped:
            start += skipped
            continue
        if len(piece) > MAX_CHARS:
            blank = max(piece.rfind(" ", MAX_CHARS // 2), piece.rfind("\n", MAX_CHARS // 2))
            piece = piece[: blank if blank > 0 else MAX_CHARS]
        yield start, start + len(piece.rstrip())
        start += len(piece)
