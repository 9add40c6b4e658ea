"""DOCX: paragraphs and tables in document order, headings give the sections."""

from __future__ import annotations

import re

import docx
from docx.document import Document
from docx.enum.style import WD_STYLE_TYPE
from docx.exceptions import PythonDocxError
from docx.opc.exceptions import OpcError
from docx.table import Table, _Cell

from pipeline.adapters.parsers.assembly import Assembly, Outline, file_title
from pipeline.adapters.parsers.package import reading, unpacked
from pipeline.types import ParsedDocument, RecordFields, Source

MAX_TABLE_DEPTH = 8

_HEADING = re.compile(r"heading ([1-9])", re.IGNORECASE)


class DocxParser:
    """One block per section; a table is one line a row, its cells apart by " | "."""

    def parse(self, data: bytes, source: Source, fields: RecordFields) -> ParsedDocument:
        """The text of the body; raises ParseFailed for what is no DOCX or unpacks to too much."""
        file = unpacked(data, "DOCX", "DOC")
        with reading("DOCX", "word processor", PythonDocxError, OpcError):
            document = docx.Document(file)
            return _assemble(document).document(document.core_properties.title or file_title(source))


def _assemble(document: Document) -> Assembly:
    assembly, outline = Assembly(), Outline()
    styles = _styles(document)
    for item in document.iter_inner_content():
        if isinstance(item, Table):
            assembly.add("\n".join(_rows(item)), section=outline.path)
            continue
        style = styles.get(item._p.style) or styles[None]
        if level := _heading_level(style):
            outline.enter(level, item.text)
        tight = style.startswith("list")
        assembly.add(f"- {item.text}" if tight and item.text.strip() else item.text, section=outline.path)
    return assembly


def _styles(document: Document) -> dict[str | None, str]:
    """Names of the styles by id, under None that of the default one. ``paragraph.style`` takes 3 ms to find it."""
    names: dict[str | None, str] = {style.style_id: (style.name or "").lower() for style in document.styles}
    default = document.styles.default(WD_STYLE_TYPE.PARAGRAPH)
    return {**names, None: (default.name or "").lower() if default else ""}


def _heading_level(style: str) -> int:
    """1 for a document's title and for Heading 1, and so on; 0 for what is no heading."""
    found = _HEADING.match(style)
    return int(found[1]) if found else int(style == "title")


def _rows(table: Table, depth: int = 1) -> list[str]:
    """A line for each row. A merged cell is written once in each row that it reaches into.

    Not by ``row.cells``, which has an entry for each column that a cell declares to span, be it a billion.
    """
    lines, above = [], dict[int, str]()
    for row in table.rows:
        texts, cells, column = {}, [], 0
        for tc in row._tr.tc_lst:
            cell = _Cell(tc, table)
            text = " ".join(cell.text.split())
            texts[column] = above.get(column, text) if tc.vMerge == "continue" else text
            cells.append(cell)
            column += tc.grid_span
        lines.append(" | ".join(texts.values()))
        above = texts
        if depth < MAX_TABLE_DEPTH:
            lines += (line for cell in cells for inner in cell.tables for line in _rows(inner, depth + 1))
    return lines
