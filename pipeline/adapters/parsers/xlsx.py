"""XLSX: a sheet is a section, a row is a line."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime, time
from typing import Any, Protocol

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

from pipeline.adapters.parsers.assembly import Assembly, file_title, one_line
from pipeline.adapters.parsers.package import reading, unpacked
from pipeline.errors import ParseFailed
from pipeline.types import ParsedDocument, RecordFields, Source

MAX_CELLS = 20_000_000
"""Empty ones before the last of a row included: a stray cell far to the right makes 16,384 of a row."""
MAX_ROWS = 1_048_576
"""Of a sheet, as Excel has it: a file may number its rows as it likes."""
MAX_HEADER_CHARS = 100

Row = Sequence[Any]


class Sheet(Protocol):
    """What is used of openpyxl's worksheet, which has no types."""

    title: str
    sheet_state: str

    def reset_dimensions(self) -> None:
        """Forget the size that the file declares."""

    def iter_rows(self, *, values_only: bool) -> Iterator[Row]:
        """The values of each row."""


class XlsxParser:
    """The values that the formulas last had. Where the first row of several cells is all names, each line says
    ``name: value; …``, else its cells stand apart by tabs. Hidden sheets are left out.
    """

    def parse(self, data: bytes, source: Source, fields: RecordFields) -> ParsedDocument:
        """The text of all sheets; raises ParseFailed for what is no XLSX, unpacks to too much or has too many cells."""
        file = unpacked(data, "XLSX", "XLS")
        with reading("XLSX", "spreadsheet program", InvalidFileException), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and extensions that it doesn't know
            # Read-only: row by row, and no memory for the empty space between cells.
            workbook = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
            return _assemble(workbook.worksheets).document(workbook.properties.title or file_title(source))


def _assemble(sheets: Sequence[Sheet]) -> Assembly:
    assembly, budget = Assembly(), _Budget()
    for sheet in sheets:
        if sheet.sheet_state != "visible":
            continue
        sheet.reset_dimensions()
        separator = "\n\n"
        for line in _lines(budget.spend(sheet.iter_rows(values_only=True))):
            assembly.add(line, section=one_line(sheet.title), separator=separator)
            separator = "\n"
    return assembly


class _Budget:
    """Bounds the rows of each sheet and the cells of all."""

    def __init__(self) -> None:
        self._cells = 0

    def spend(self, rows: Iterator[Row]) -> Iterator[Row]:
        """``rows``, until they are too many."""
        for number, row in enumerate(rows, start=1):
            self._cells += len(row)
            if number > MAX_ROWS or self._cells > MAX_CELLS:
                limit = f"{MAX_ROWS:,} rows in a sheet and {MAX_CELLS:,} cells in all"
                raise ParseFailed(f"The XLSX has more cells than are read: {limit}.", "Save its table as CSV.")
            yield row


def _lines(rows: Iterator[Row]) -> Iterator[str]:
    """One line for each row that holds anything."""
    names: list[str] | None = None
    pending = ""
    for row in rows:
        cells = {column: text for column, value in enumerate(row) if value is not None and (text := _text(value))}
        if not cells:
            continue
        if names is None and len(cells) > 1:
            names = _names(row, cells)
            pending = "\t".join(cells.values())
            if names:
                continue
            yield pending
        else:
            yield _line(cells, names or [])
        pending = ""
    if pending:
        yield pending  # a header above nothing


def _names(row: Row, cells: dict[int, str]) -> list[str]:
    """The names of the columns if that is what the row holds: short texts, each another; otherwise none."""
    texts = all(isinstance(row[column], str) and len(text) <= MAX_HEADER_CHARS for column, text in cells.items())
    if not texts or len(set(cells.values())) < len(cells):
        return []
    return [cells.get(column, "") for column in range(len(row))]


def _line(cells: dict[int, str], names: Sequence[str]) -> str:
    if not names:
        return "\t".join(cells.values())
    named = ((names[column] if column < len(names) else "", text) for column, text in cells.items())
    return "; ".join(f"{name}: {text}" if name else text for name, text in named)


def _text(value: Any) -> str:
    """A cell as a person reads it: dates without the midnight they begin at, numbers without rounding errors."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return format(value, ".15g")
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ", "seconds")
    return " ".join(str(value).split())
