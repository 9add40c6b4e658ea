from __future__ import annotations

import io
import zipfile

import docx
import pytest
from docx.document import Document

from pipeline.adapters.parsers import docx as module
from pipeline.adapters.parsers.docx import DocxParser
from pipeline.errors import ParseFailed
from pipeline.types import ParsedDocument, RecordFields, Source


def saved(document: Document) -> bytes:
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


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


def archive(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        for name, content in files.items():
            written.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"hello", "not a DOCX file"),
        (b"\xd0\xcf\x11\xe0" + b"\0" * 600, "older DOC format"),
        (archive(x=b"y"), "damaged"),
        (saved(docx.Document())[:-2000], "cut off"),
    ],
    ids=["no archive", "old format", "other archive", "cut off"],
)
def test_what_is_no_docx_says_why(data: bytes, cause: str) -> None:
    with pytest.raises(ParseFailed, match=cause):
        parsed(data)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 1_000_000)
    bomb = archive(x=b"\0" * 1_000_001)
    assert len(bomb) < 5000
    with pytest.raises(ParseFailed, match="unpacks to 1,000,001 bytes; the limit is 1,000,000"):
        parsed(bomb)
