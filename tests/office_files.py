"""Builds office files for tests, also such as no program would write."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import docx
import openpyxl
import pptx

SHEET = "xl/worksheets/sheet1.xml"
SLIDES = "ppt/presentation.xml"
BODY = "word/document.xml"


def archive(members: Mapping[str, bytes]) -> bytes:
    """A zip archive of these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        for name, content in members.items():
            written.writestr(name, content)
    return file.getvalue()


def edited(data: bytes, name: str, edit: Callable[[bytes], bytes]) -> bytes:
    """The office file ``data`` with one of its parts changed, or added where ``edit`` is given nothing."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        members = {entry: opened.read(entry) for entry in opened.namelist()}
    return archive({**members, name: edit(members.get(name, b""))})


def lying(data: bytes, name: str, size: int) -> bytes:
    """The archive ``data``, in which a member says that it unpacks to ``size`` bytes."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        local = opened.getinfo(name).header_offset
    changed = bytearray(data)
    struct.pack_into("<I", changed, local + 22, size)
    struct.pack_into("<I", changed, changed.rindex(name.encode()) - 22, size)
    return bytes(changed)


def saved(document: Any) -> bytes:
    """The bytes of a document of docx, pptx or openpyxl."""
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def docx_file(*paragraphs: str) -> bytes:
    """A DOCX with these paragraphs."""
    document = docx.Document()
    for text in paragraphs:
        document.add_paragraph(text)
    return saved(document)


def xlsx_file(sheets: Mapping[str, Sequence[Sequence[Any]]], title: str = "") -> bytes:
    """An XLSX with these rows in its sheets."""
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.worksheets[0])
    workbook.properties.title = title
    for name, rows in sheets.items():
        sheet = workbook.create_sheet(name)
        for row in rows:
            sheet.append(row)
    return saved(workbook)


def pptx_file(*slides: tuple[str, str, str], title: str = "") -> bytes:
    """A PPTX with these slides: title, text and notes."""
    presentation = pptx.Presentation()
    presentation.core_properties.title = title
    for heading, text, notes in slides:
        slide = presentation.slides.add_slide(presentation.slide_layouts[1])
        slide.shapes.title.text = heading
        slide.placeholders[1].text_frame.text = text
        if notes:
            slide.notes_slide.notes_text_frame.text = notes
    return saved(presentation)
