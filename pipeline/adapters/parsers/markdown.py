"""Markdown: the text stays as it was written, headings give the sections."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pipeline.adapters.parsers.assembly import Assembly, Outline, file_title
from pipeline.adapters.parsers.text import decode
from pipeline.types import ParsedDocument, RecordFields, Source

MAX_HEADING_CHARS = 1000

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r"^title[ \t]*:[ \t]*(.+)$", re.MULTILINE | re.IGNORECASE)
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t](.*))?$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_NO_PARAGRAPH = re.compile(r"\s*$| {4}|\t| {0,3}(?:[-*+>|]|\d+[.)]|#{1,6}(?:\s|$)|=+\s*$|`{3}|~{3})")
_MARKUP = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|[*`]+|(?<!\w)_+|_+(?!\w)|\{#[^}]*\}")


class MarkdownParser:
    """One block per section; its title is that of the front matter, the first heading 1, or the file's name."""

    def parse(self, data: bytes, source: Source, fields: RecordFields) -> ParsedDocument:
        """The source text without its front matter."""
        text = decode(data).replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
        front = _FRONT_MATTER.match(text)
        lines = text[front.end() if front else 0 :].split("\n")
        title = _TITLE.search(front[1]) if front else None
        outline, assembly = Outline(), Assembly()
        start, path, first = 0, "", ""
        for number, level, heading in headings(lines):
            assembly.add("\n".join(lines[start:number]), section=path)
            start, path = number, outline.enter(level, heading)
            first = first or (heading if level == 1 else "")
        assembly.add("\n".join(lines[start:]), section=path)
        return assembly.document((title[1].strip().strip("\"'") if title else first) or file_title(source))


def headings(lines: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """(line number, level, text) of each ATX and setext heading outside fenced code, as in CommonMark 0.31.

    But for one thing: a paragraph of several lines above a rule is no heading here.
    By lines and not by a parser of the whole syntax: the text stays as it is, so headings are all that counts,
    and this takes linear time whatever the input.
    """
    fence = ""
    for number, line in enumerate(lines):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                fence = ""
        elif mark and not (mark[1][0] == "`" and "`" in mark[2]):
            fence = mark[1]
        elif atx := _ATX.match(line):
            yield number, len(atx[1]), plain(_without_closing_marks(atx[2] or ""))
        elif (under := _SETEXT.match(line)) and _is_single_line(lines, number - 1):
            yield number - 1, 1 if under[1][0] == "=" else 2, plain(lines[number - 1])


def plain(heading: str) -> str:
    """A heading without emphasis, code marks, link targets and anchors."""
    return _MARKUP.sub(lambda found: found[1] or "", heading[:MAX_HEADING_CHARS]).strip()


def _is_single_line(lines: Sequence[str], number: int) -> bool:
    """Whether a paragraph begins and ends with this line."""
    if number < 0 or _NO_PARAGRAPH.match(lines[number]):
        return False
    return number == 0 or bool(_NO_PARAGRAPH.match(lines[number - 1]))


def _without_closing_marks(heading: str) -> str:
    """The heading of ``## Heading ##``."""
    heading = heading.strip()
    bare = heading.rstrip("#")
    return bare.rstrip() if bare != heading and bare[-1:] in ("", " ", "\t") else heading
