"""How every parser builds its text: one normal form, and blocks whose spans are exact in it."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

from pipeline.errors import ParseFailed
from pipeline.types import Block, ParsedDocument, Source

MAX_TITLE_CHARS = 200
MAX_TEXT_CHARS = 100_000_000
"""Of one document; a long book has a million. A small file can name the same page or cell any number of times."""

# Besides control characters: terminal colours, soft hyphens, zero-width spaces, byte order marks, non-characters.
# They show nothing and would part words from the words that people search for.
_DROPPED = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u2060\ufeff\ufffe\uffff]")
_LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_SPACES = re.compile(r"[\xa0\u2000-\u200a\u202f\u3000]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
# All that one of those four begins with. Most texts hold none of it, and one search is an eighth of the work of four.
_ODD = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\xa0\xad\u2000-\u200b\u2028\u2029\u202f\u2060\u3000\ud800-\udfff\ufeff\ufffe\uffff]"
)


def normal_form(text: str) -> str:
    r"""``text`` in Unicode NFC, lines ended by ``\n``, no control characters but ``\n`` and ``\t``, valid UTF-8."""
    if _ODD.search(text):
        text = _DROPPED.sub("", _LINE_ENDS.sub("\n", text))
        text = _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", _SPACES.sub(" ", text))
    return unicodedata.normalize("NFC", text)


def one_line(text: str) -> str:
    """``text`` as a title: on one line and of bounded length."""
    line = " ".join(normal_form(text).split())
    return line if len(line) <= MAX_TITLE_CHARS else line[: MAX_TITLE_CHARS - 1].rstrip() + "…"


def file_title(source: Source) -> str:
    """The title of a document that has none of its own: the name of its file."""
    return one_line(PurePosixPath(source.origin).stem)


def check_length(chars: int) -> None:
    """Raise ParseFailed for a document of more text than is read."""
    if chars > MAX_TEXT_CHARS:
        raise ParseFailed(f"It holds more than {MAX_TEXT_CHARS:,} characters of text.", "Split it.")


class Outline:
    """The path of headings above the current place, as ``Guide > Install``."""

    def __init__(self) -> None:
        """Start above all headings."""
        self._open: list[tuple[int, str]] = []

    def enter(self, level: int, heading: str) -> str:
        """Go under ``heading``, which closes those of its own and deeper levels; the path there."""
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        if title := one_line(heading):
            self._open.append((level, title))
        return self.path

    @property
    def path(self) -> str:
        """The current path; empty above the first heading."""
        return " > ".join(title for _, title in self._open)


class Assembly:
    """Collects the pieces of a document in reading order."""

    def __init__(self) -> None:
        """Start empty."""
        self._parts: list[str] = []
        self._length = 0
        self._spans: list[tuple[int, int, int | None, str]] = []

    def add(self, text: str, *, page: int | None = None, section: str = "", separator: str = "\n\n") -> None:
        """Append a piece, apart from the one before by ``separator``; white space alone is left out."""
        text = normal_form(text).strip("\n").rstrip()
        if not text.strip():
            return
        gap = separator if self._parts else ""
        start = self._length + len(gap)
        self._parts += (gap, text)
        self._length = start + len(text)
        check_length(self._length)
        self._mark(start, page, section)

    def document(self, title: str) -> ParsedDocument:
        """All pieces as one text, neighbours of the same page and section as one block."""
        blocks = (Block(start=start, end=end, page=page, section=path) for start, end, page, path in self._spans)
        return ParsedDocument(text="".join(self._parts), title=one_line(title), blocks=tuple(blocks))

    def _mark(self, start: int, page: int | None, section: str) -> None:
        if self._spans and self._spans[-1][2:] == (page, section):
            start = self._spans.pop()[0]
        self._spans.append((start, self._length, page, section))
