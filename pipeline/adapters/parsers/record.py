"""One record as a document: a JSON object or a row of a CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.adapters.parsers.assembly import Assembly, normal_form, one_line
from pipeline.adapters.parsers.text import decode
from pipeline.errors import ParseFailed
from pipeline.fields import ID_NAMES, field
from pipeline.types import ParsedDocument, RecordFields, Source

TEXT_NAMES = ("text", "content", "contents", "body", "passage", "abstract", "document", "page_content")
TITLE_NAMES = ("title", "name", "headline", "subject")
MAX_ALIASES = 100
MAX_METADATA_BYTES = 16_384
"""Of the fields that are asked for, as JSON."""
GUESSED_METADATA_BYTES = 4_096
"""Of the fields that are kept because nobody said which; a longer text among them is left out."""
_GUESSED_CHARS = 500
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
    title_name = fields.title or _first(record, TITLE_NAMES)
    text_names = fields.text or tuple(name for name in [_first(record, TEXT_NAMES)] if name)
    assembly = Assembly()
    for name in text_names:
        assembly.add(_configured(record, name))
    if not text_names:
        assembly.add("\n".join(f"{name}: {text}" if name else text for name, text in _scalars("", record)))
    document = assembly.document(_configured(record, title_name) if title_name else "")
    if fields.metadata:
        metadata = _chosen(record, fields.metadata)
    else:
        used = {title_name, *text_names, *fields.aliases, *([fields.id] if fields.id else ID_NAMES)}
        metadata = _guessed(record, used) if text_names else {}
    return document.model_copy(update={"aliases": _aliases(record, fields.aliases), "metadata": metadata})


def _aliases(record: Record, names: tuple[str, ...]) -> tuple[str, ...]:
    """Each alias once, in order; a field holds one or a list of them, and may be missing."""
    values = (field(record, name) for name in names)
    listed = (one for value in values for one in (value if isinstance(value, list) else [value]))
    found = (one_line(str(one)) for one in listed if isinstance(one, str | int | float) and not isinstance(one, bool))
    return tuple(dict.fromkeys(alias for alias in found if alias))[:MAX_ALIASES]


def _chosen(record: Record, names: tuple[str, ...]) -> dict[str, Any]:
    values = {normal_form(name): _storable(field(record, name)) for name in names}
    found = {name: value for name, value in values.items() if value is not None}
    size = _size(found)
    if size > MAX_METADATA_BYTES:
        hint = "Keep fewer or smaller fields: --metadata-field."
        raise ParseFailed(f"Its metadata have {size:,} bytes; the limit is {MAX_METADATA_BYTES:,}.", hint)
    return found


def _guessed(record: Record, used: set[str]) -> dict[str, Any]:
    """Scalars of the record that have no other use, the first ones that there is room for."""
    found: dict[str, Any] = {}
    room = GUESSED_METADATA_BYTES
    for name, value in record.items():
        scalar = _storable(value) if isinstance(value, str | int | float) else None
        if scalar in (None, "") or name in used or (isinstance(scalar, str) and len(scalar) > _GUESSED_CHARS):
            continue
        room -= _size({name: scalar})
        if room >= 0:
            found[normal_form(name)] = scalar
    return found


def _storable(value: Any) -> Any:
    """A JSON value as Postgres takes it: no control characters, no lone surrogates, no NaN."""
    if isinstance(value, str):
        return normal_form(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    if isinstance(value, dict):
        return {normal_form(str(key)): _storable(inner) for key, inner in value.items()}
    return value


def _size(metadata: dict[str, Any]) -> int:
    return len(json.dumps(metadata, ensure_ascii=False).encode())


def _configured(record: Record, name: str) -> str:
    value = field(record, name)
    if value is None and name not in record:
        names = ", ".join(list(record)[:_SHOWN_FIELDS]) or "none"
        raise ParseFailed(f"The record has no field '{name}'.", f"Its fields are: {names}.")
    return _text(value)


def _first(record: Record, names: tuple[str, ...]) -> str:
    """The field's name that is the first of ``names``, in whatever case, to hold text; '' where none does."""
    by_name = {name.lower(): name for name in record}
    found = (by_name[name] for name in names if name in by_name)
    return next((name for name in found if isinstance(record[name], str) and record[name].strip()), "")


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
