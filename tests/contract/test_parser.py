"""What holds for every parser."""

from __future__ import annotations

import contextlib
import io
import unicodedata

import docx
import pytest

from pipeline.adapters.parsers import all_parsers
from pipeline.errors import ParseFailed
from pipeline.seams import Parser
from pipeline.types import ParsedDocument, RecordFields, Source
from tests.office_files import pptx_file, xlsx_file
from tests.pdf_file import pdf

DIRTY = "Re\u0301sume\u0301 of the soft\u00adware\u200b\r\nsecond\u00a0line"
CLEAN = ("Résumé of the software", "second line")


class ParserContract:
    """Inherit it and provide ``format`` and ``document``: a document of that format that holds ``text``."""

    format: str
    columns: tuple[str, ...] = ()

    def document(self, text: str) -> bytes:
        raise NotImplementedError

    @pytest.fixture
    def parser(self) -> Parser:
        return all_parsers()[self.format]

    @pytest.fixture
    def source(self) -> Source:
        return Source(key="/data/my file.x", origin="/data/my file.x", format=self.format, columns=self.columns)

    @pytest.fixture
    def parsed(self, parser: Parser, source: Source) -> ParsedDocument:
        return parser.parse(self.document(DIRTY), source, RecordFields())

    def test_the_text_comes_in_normal_form(self, parsed: ParsedDocument) -> None:
        assert all(line in parsed.text for line in CLEAN)
        assert unicodedata.is_normalized("NFC", parsed.text)
        assert all(char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs") for char in parsed.text)

    def test_blocks_are_in_order_and_hold_all_of_the_text(self, parsed: ParsedDocument) -> None:
        covered, end = "", 0
        for block in parsed.blocks:
            assert end <= block.start < block.end
            assert parsed.text[block.start : block.end].strip() == parsed.text[block.start : block.end]
            covered, end = covered + parsed.text[block.start : block.end], block.end
        assert "".join(covered.split()) == "".join(parsed.text.split())

    def test_a_broken_document_fails_in_one_line(self, parser: Parser, source: Source) -> None:
        with pytest.raises(ParseFailed) as caught:
            parser.parse(b"\0\x01\x02\xff\xfe\0" * 500, source, RecordFields())
        assert "\n" not in str(caught.value)
        assert caught.value.hint

    def test_an_empty_document_fails_or_gives_no_text(self, parser: Parser, source: Source) -> None:
        """The stage turns no text into ParseFailed; nothing else may come out of an empty file."""
        with contextlib.suppress(ParseFailed):
            assert parser.parse(b"", source, RecordFields()).text == ""


class TestTextParser(ParserContract):
    format = "text"

    def document(self, text: str) -> bytes:
        return text.encode()


class TestMarkdownParser(ParserContract):
    format = "markdown"

    def document(self, text: str) -> bytes:
        return f"# Heading\r\n\r\n{text}\r\n\r\n## Second\r\nmore\r\n".encode()


class TestHtmlParser(ParserContract):
    format = "html"

    def document(self, text: str) -> bytes:
        return f"<meta charset=utf-8><h1>Heading</h1><pre>{text}</pre><h2>Second</h2><p>more".encode()


class TestPdfParser(ParserContract):
    format = "pdf"

    def document(self, text: str) -> bytes:
        return pdf([list(CLEAN), ["more"]])


class TestDocxParser(ParserContract):
    format = "docx"

    def document(self, text: str) -> bytes:
        document = docx.Document()
        document.add_heading("Heading", 1)
        for line in text.splitlines():
            document.add_paragraph(line)
        document.add_heading("Second", 2)
        document.add_paragraph("more")
        file = io.BytesIO()
        document.save(file)
        return file.getvalue()


class TestPptxParser(ParserContract):
    format = "pptx"

    def document(self, text: str) -> bytes:
        return pptx_file(("Heading", "\n".join(text.splitlines()), "notes"), ("Second", "more", ""))


class TestXlsxParser(ParserContract):
    format = "xlsx"

    def document(self, text: str) -> bytes:
        return xlsx_file({"First": [["a", "b"], *([1, line] for line in text.splitlines())], "Second": [["more"]]})


class TestEmlParser(ParserContract):
    format = "eml"

    def document(self, text: str) -> bytes:
        return f"From: a@example.org\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n".encode()


class TestJsonParser(ParserContract):
    format = "json"

    def document(self, text: str) -> bytes:
        escaped = text.replace("\r", "\\r").replace("\n", "\\n")
        return f'{{"title": "T", "text": "{escaped}\\ud800\\u0000"}}'.encode()


class TestCsvParser(ParserContract):
    format = "csv"
    columns = ("id", "text")

    def document(self, text: str) -> bytes:
        return f'7,"{text}"\r\n'.encode()

    def test_a_broken_document_fails_in_one_line(self, parser: Parser, source: Source) -> None:
        with pytest.raises(ParseFailed):
            parser.parse(b"\0" * 500, source, RecordFields())
