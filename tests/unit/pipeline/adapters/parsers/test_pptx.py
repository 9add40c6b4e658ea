from __future__ import annotations

import pptx
import pytest
from pptx.util import Inches

from pipeline.adapters.parsers import pptx as module
from pipeline.adapters.parsers.pptx import PptxParser
from pipeline.errors import ParseFailed
from pipeline.types import ParsedDocument, RecordFields, Source
from tests.office_files import SLIDES, edited, pptx_file, saved


def parsed(data: bytes) -> ParsedDocument:
    return PptxParser().parse(data, Source(key="k", origin="/data/my talk.pptx", format="pptx"), RecordFields())


def test_a_slide_is_a_page_under_its_title_with_its_notes() -> None:
    document = parsed(pptx_file(("Owls", "They hunt\nat night", "Say it slowly"), ("", "Bread", "")))
    assert [(document.text[b.start : b.end], b.page, b.section) for b in document.blocks] == [
        ("Owls\n\nThey hunt\nat night\n\nSay it slowly", 1, "Owls"),
        ("Bread", 2, ""),
    ]


@pytest.mark.parametrize(("title", "expected"), [("Annual Talk", "Annual Talk"), ("", "my talk")])
def test_the_title_is_that_of_its_properties_or_the_file(title: str, expected: str) -> None:
    assert parsed(pptx_file(("x", "", ""), title=title)).title == expected


def test_tables_are_lines_and_groups_are_read_in_their_place() -> None:
    presentation = pptx.Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[6])
    box = (Inches(1), Inches(1), Inches(3), Inches(1))
    group = slide.shapes.add_group_shape()
    group.shapes.add_group_shape().shapes.add_textbox(*box).text_frame.text = "inner"
    group.shapes.add_textbox(*box).text_frame.text = "outer"
    table = slide.shapes.add_table(2, 2, *box).table
    table.cell(0, 0).text, table.cell(0, 1).text = "a", "b\nc"
    table.cell(1, 0).merge(table.cell(1, 1))
    table.cell(1, 0).text = "wide"
    assert parsed(saved(presentation)).text == "inner\n\nouter\n\na | b c\nwide"


def test_one_slide_named_ever_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SLIDES", 100)
    again = b'<p:sldId r:id="rId7" id="300"/>' * 100
    data = edited(pptx_file(("x", "", "")), SLIDES, lambda xml: xml.replace(b"<p:sldId ", again + b"<p:sldId ", 1))
    with pytest.raises(ParseFailed, match="101 slides; the limit is 100"):
        parsed(data)
