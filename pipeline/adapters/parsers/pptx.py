"""PPTX: slides in order, with their notes; a slide is a page and its title the section."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pptx
from pptx.exc import PythonPptxError
from pptx.presentation import Presentation
from pptx.shapes.base import BaseShape
from pptx.shapes.group import GroupShape
from pptx.slide import Slide

from pipeline.adapters.parsers.assembly import Assembly, file_title, one_line
from pipeline.adapters.parsers.package import reading, unpacked
from pipeline.errors import ParseFailed
from pipeline.types import ParsedDocument, RecordFields, Source

MAX_SLIDES = 10_000
"""A slide can be named any number of times."""


class PptxParser:
    """One block per slide: its shapes' text, tables as one line a row, then the speaker's notes."""

    def parse(self, data: bytes, source: Source, fields: RecordFields) -> ParsedDocument:
        """The text of all slides; raises ParseFailed for what is no PPTX or unpacks to too much."""
        file = unpacked(data, "PPTX", "PPT")
        with reading("PPTX", "presentation program", PythonPptxError):
            presentation = pptx.Presentation(file)
            return _assemble(presentation).document(presentation.core_properties.title or file_title(source))


def _assemble(presentation: Presentation) -> Assembly:
    if (count := len(presentation.slides)) > MAX_SLIDES:
        raise ParseFailed(f"The PPTX has {count:,} slides; the limit is {MAX_SLIDES:,}.", "Split it.")
    assembly = Assembly()
    for number, slide in enumerate(presentation.slides, start=1):
        section = one_line(_title(slide))
        for text in _texts(slide):
            assembly.add(text, page=number, section=section)
    return assembly


def _title(slide: Slide) -> str:
    title = slide.shapes.title
    return title.text_frame.text if title is not None else ""


def _texts(slide: Slide) -> Iterator[str]:
    title = slide.shapes.title
    yield _title(slide)
    for shape in _shapes(slide):
        if title is None or shape.shape_id != title.shape_id:
            yield _text(shape)
    if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame) is not None:
        yield notes.text


def _shapes(slide: Slide) -> Iterator[BaseShape]:
    """All shapes in the order of the slide, those of groups in their place; no recursion."""
    pending: list[BaseShape] = list(slide.shapes)[::-1]
    while pending:
        shape = pending.pop()
        if isinstance(shape, GroupShape):
            pending += list(shape.shapes)[::-1]
        else:
            yield shape


def _text(shape: Any) -> str:
    if shape.has_text_frame:
        return str(shape.text_frame.text)
    return "\n".join(_rows(shape.table)) if shape.has_table else ""


def _rows(table: Any) -> Iterator[str]:
    for row in table.rows:
        yield " | ".join(" ".join(cell.text_frame.text.split()) for cell in row.cells if not cell.is_spanned)
