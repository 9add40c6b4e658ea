"""Parsers by format. A parser's library is imported when its format comes up for the first time."""

from __future__ import annotations

from importlib import import_module

from pipeline.seams import Parser
from pipeline.types import ParsedDocument, RecordFields, Source

_CLASSES = {
    "text": "text.TextParser",
    "markdown": "markdown.MarkdownParser",
    "html": "html.HtmlParser",
    "pdf": "pdf.PdfParser",
    "docx": "docx.DocxParser",
    "pptx": "pptx.PptxParser",
    "xlsx": "xlsx.XlsxParser",
    "eml": "eml.EmlParser",
    "json": "record.JsonParser",
    "csv": "record.CsvParser",
}


class LazyParser:
    """Stands for the parser ``module.Class`` of this package and imports it on first use."""

    def __init__(self, path: str) -> None:
        """Keep the path; nothing is imported yet."""
        self._path = path
        self._parser: Parser | None = None

    def parse(self, data: bytes, source: Source, fields: RecordFields) -> ParsedDocument:
        """Text and structure of ``data``; raises ParseFailed."""
        if self._parser is None:
            module, name = self._path.split(".")
            self._parser = getattr(import_module(f"{__name__}.{module}"), name)()
        return self._parser.parse(data, source, fields)


def all_parsers() -> dict[str, Parser]:
    """A parser for each value of ``Source.format``."""
    return {format_: LazyParser(path) for format_, path in _CLASSES.items()}
