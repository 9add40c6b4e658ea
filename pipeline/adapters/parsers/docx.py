"""DOCX: paragraphs and tables in document order, headings give the sections."""

from __future__ import annotations

import io
import re
import zipfile

import docx
from docx.document import Document
from docx.table import Table
from docx.text.paragraph import Paragraph

from pipeline.adapters.parsers.assembly import Assembly, Outline, file_title
from pipeline.errors import ParseFailed
from pipeline.types import ParsedDocument, RecordFields, Source

MAX_UNPACKED_BYTES = 300_000_000
"""A DOCX is a zip archive: a small one can unpack to more than a worker has memory."""
MAX_TABLE_DEPTH = 8

_HEADING = re.compile(r"heading ([1-9])", re.IGNORECASE)
_OLE_MAGIC = b"\xd0\xcf\x11\xe0"


class DocxParser:
    """One block per section; a table is one line a row, its cells apart by " | "."""

    def parse(self, data: bytes, source: Source, fields: RecordFields) -> ParsedDocument:
        """The text of the body; raises ParseFailed for what is no DOCX or unpacks to too much."""
        _check(data)
        try:
            document = docx.Document(io.BytesIO(data))
            return _assemble(document).document(document.core_properties.title or file_title(source))
        except Exception as error:  # noqa: BLE001 - its zip, XML and package layers raise all kinds
            cause = " ".join(str(error).split())[:120] or type(error).__name__
            raise ParseFailed(f"The DOCX is damaged: {cause}.", "Open and save it in a word processor.") from None


def _check(data: bytes) -> None:
    if data.startswith(_OLE_MAGIC):
        hint = "Save it as DOCX and without a password."
        raise ParseFailed("It is not a DOCX file, but the older DOC format or encrypted.", hint)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError):
        raise ParseFailed("It is not a DOCX file, or cut off.", "Fetch it again, or save it as DOCX.") from None
    if unpacked > MAX_UNPACKED_BYTES:
        cause = f"The DOCX unpacks to {unpacked:,} bytes; the limit is {MAX_UNPACKED_BYTES:,}."
        raise ParseFailed(cause, "Compress its pictures or split it.")


def _assemble(document: Document) -> Assembly:
    assembly, outline = Assembly(), Outline()
    for item in document.iter_inner_content():
        if isinstance(item, Table):
            assembly.add("\n".join(_rows(item)), section=outline.path)
            continue
        style = _style(item)
        if level := _heading_level(style):
            outline.enter(level, item.text)
        tight = style.startswith("list")
        assembly.add(f"- {item.text}" if tight and item.text.strip() else item.text, section=outline.path)
    return assembly


def _style(paragraph: Paragraph) -> str:
    return ((paragraph.style.name if paragraph.style else "") or "").lower()


def _heading_level(style: str) -> int:
    """1 for a document's title and for Heading 1, and so on; 0 for what is no heading."""
    found = _HEADING.match(style)
    return int(found[1]) if found else int(style == "title")


def _rows(table: Table, depth: int = 1) -> list[str]:
    """A line for each row. A merged cell stands for several and is written once."""
    lines = []
    for row in table.rows:
        cells = {id(cell._tc): cell for cell in row.cells}
        texts = (" ".join(cell.text.split()) for cell in cells.values())
        lines.append(" | ".join(texts))
        if depth < MAX_TABLE_DEPTH:
            lines += (line for cell in cells.values() for inner in cell.tables for line in _rows(inner, depth + 1))
    return lines
