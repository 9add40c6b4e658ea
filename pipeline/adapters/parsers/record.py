"""One record as a document: a JSON object or a row of a CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.adapters.parsers.assembly import Assembly
from pipeline.adapters.parsers.text import decode
from pipeline.errors import ParseFailed
from pipeline.types import ParsedDocument, RecordFields, Source

TEXT_NAMES = ("text", "content", "contents", "body", "passage", "abstract", "document", "page_content")
TITLE_NAMES = ("title", "name", "headline", "subject")
_SHOWN_FIELDS = 20
_DELIMITERS = ",;\t|"

Record = Mapping[str, Any]


class JsonParser:
    """A JSON object; any other JSON value is written out as lines."""

    def parse(self, data: bytes, source: Source, fields: RecordFields) -> ParsedDocument:
        """The text fields of the object; raises ParseFailed with the place of what is wrong in it."""
        try:
            value = json.loads(decode(data))
            record = value if isinstance(value, dict) else {"": value}
            return _document(record, fields)
        except json.JSONDecodeError as error:
            cause = f"It is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
            raise ParseFailed(cause, "Mend or remove the record.") from None
        except (RecursionError, ValueError):
            raise ParseFailed("Its JSON is nested too deeply or holds a number too long.", "Flatten it.") from None


class CsvParser:
    """One row, whose columns discovery took from the header."""

    def parse(self, data: bytes, source: Source, fields: RecordFields) -> ParsedDocument:
        """The text columns of the row; raises ParseFailed."""
        if not source.columns:
            raise ParseFailed("It holds no rows below a header in UTF-8.", "Save it as CSV in UTF-8, with a header.")
        values = _row(decode(data), len(source.columns))
        return _document(dict(zip(source.columns, values, strict=False)), fields)


def _row(text: str, width: int) -> list[str]:
    """The fields of a row, by that delimiter which gives most nearly as many as there are columns."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    try:
        rows = [next(csv.reader(text.splitlines(keepends=True), delimiter=mark), []) for mark in _DELIMITERS]
    except csv.Error as error:
        raise ParseFailed(f"It is not a row of a CSV: {error}.", "Check its quotes.") from None
    return min(rows, key=lambda row: abs(len(row) - width))


def _document(record: Record, fields: RecordFields) -> ParsedDocument:
    title = _configured(record, fields.title) if fields.title else _first(record, TITLE_NAMES)
    assembly = Assembly()
    for text in _texts(record, fields):
        assembly.add(text)
    return assembly.document(title)


def _texts(record: Record, fields: RecordFields) -> Iterator[str]:
    if fields.text:
        yield from (_configured(record, name) for name in fields.text)
    elif text := _first(record, TEXT_NAMES):
        yield text
    else:
        yield "\n".join(f"{name}: {text}" if name else text for name, text in _scalars("", record))


def _configured(record: Record, name: str) -> str:
    if name not in record:
        names = ", ".join(list(record)[:_SHOWN_FIELDS]) or "none"
        raise ParseFailed(f"The record has no field '{name}'.", f"Its fields are: {names}.")
    return _text(record[name])


def _first(record: Record, names: tuple[str, ...]) -> str:
    """The first of the fields ``names``, in whatever case, that holds text."""
    by_name = {name.lower(): value for name, value in record.items()}
    values = (by_name.get(name) for name in names)
    return next((value for value in values if isinstance(value, str) and value.strip()), "")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "\n".join(f"{name}: {text}" if name else text for name, text in _scalars("", value))


def _scalars(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """(dotted name, text) of each scalar in ``value``; the elements of a list share its name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _scalars(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _scalars(name, inner)
    elif value is not None and str(value).strip():
        yield name, str(value).lower() if isinstance(value, bool) else str(value)
