from __future__ import annotations

import time

import docx
import pytest

from pipeline.adapters.parsers.docx import DocxParser
from pipeline.types import ParsedDocument, RecordFields, Source
from tests.office_files import BODY, edited, saved


def parsed(data: bytes) -> ParsedDocument:
    return DocxParser().parse(data, Source(key="k", origin="/data/my report.docx", format="docx"), RecordFields())


def test_paragraphs_and_tables_come_in_order_under_their_headings() -> None:
    document = docx.Document()
    document.add_heading("Guide", 0)
    document.add_paragraph("intro")
    document.add_heading("Install", 2)
    table = document.add_table(2, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "a", "b\nc"
    table.cell(1, 0).merge(table.cell(1, 1)).text = "wide"
    document.add_paragraph("item", style="List Bullet")
    result = parsed(saved(document))
    assert [(result.text[b.start : b.end], b.section) for b in result.blocks] == [
        ("Guide\n\nintro", "Guide"),
        ("Install\n\na | b c\nwide\n\n- item", "Guide > Install"),
    ]


@pytest.mark.parametrize(("title", "expected"), [("Annual Report", "Annual Report"), ("", "my report")])
def test_the_title_is_that_of_its_properties_or_the_file(title: str, expected: str) -> None:
    document = docx.Document()
    document.core_properties.title = title
    document.add_paragraph("x")
    assert parsed(saved(document)).title == expected


def test_a_merged_cell_is_written_once_in_each_row_it_reaches_into() -> None:
    document = docx.Document()
    table = document.add_table(3, 2)
    table.cell(0, 0).merge(table.cell(1, 0)).text = "tall"
    for row, text in enumerate("abc"):
        table.cell(row, 1).text = text
    assert parsed(saved(document)).text == "tall | a\ntall | b\n | c"


def test_a_cell_that_spans_a_billion_columns_does_no_harm() -> None:
    document = docx.Document()
    document.add_table(1, 1).cell(0, 0).text = "wide"
    wide = b'<w:gridSpan w:val="1000000000"/><w:tcW'
    assert parsed(edited(saved(document), BODY, lambda xml: xml.replace(b"<w:tcW", wide, 1))).text == "wide"


def test_ten_thousand_paragraphs_take_a_second() -> None:
    more = b"<w:p><w:r><w:t>y</w:t></w:r></w:p>" * 10_000
    began = time.process_time()
    document = parsed(
        edited(saved(docx.Document()), BODY, lambda xml: xml.replace(b"<w:sectPr", more + b"<w:sectPr", 1))
    )
    assert document.text.count("y") == 10_000
    assert time.process_time() - began < 6  # python-docx's own search for each one's style takes 15
