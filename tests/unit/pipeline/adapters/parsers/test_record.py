from __future__ import annotations

import contextlib
import json

import pytest

from pipeline.adapters.parsers.record import CsvParser, JsonParser
from pipeline.errors import ParseFailed
from pipeline.types import ParsedDocument, RecordFields, Source


def parsed(record: object, fields: RecordFields | None = None) -> ParsedDocument:
    data = record if isinstance(record, bytes) else json.dumps(record).encode()
    return JsonParser().parse(data, Source(key="k", origin="/a.jsonl", format="json"), fields or RecordFields())


def row(data: bytes, *columns: str) -> ParsedDocument:
    source = Source(key="k", origin="/a.csv", format="csv", columns=columns)
    return CsvParser().parse(data, source, RecordFields())


def test_the_usual_names_are_found() -> None:
    document = parsed({"_id": 1, "Title": "T", "abstract": "A", "x": 3})
    assert (document.title, document.text) == ("T", "A")


def test_configured_fields_are_joined_by_blank_lines() -> None:
    document = parsed({"q": "Why?", "a": ["one", "two"], "t": 7}, RecordFields(text=("q", "a"), title="t"))
    assert (document.title, document.text) == ("7", "Why?\n\none\ntwo")


@pytest.mark.parametrize("fields", [RecordFields(text=("body",)), RecordFields(title="body")])
def test_a_configured_field_that_is_missing_fails_with_the_names_there_are(fields: RecordFields) -> None:
    with pytest.raises(ParseFailed, match=r"no field 'body'.*Its fields are: text, other"):
        parsed({"text": "x", "other": 1}, fields)


def test_without_a_text_field_all_scalars_are_written_out() -> None:
    record = {"sku": "x1", "price": 2.5, "tags": ["a", "b"], "size": {"w": 1}, "sold": True, "none": None}
    assert parsed(record).text == "sku: x1\nprice: 2.5\ntags: a\ntags: b\nsize.w: 1\nsold: true"


def test_json_that_is_no_object_is_written_out_too() -> None:
    assert parsed(["a", ["b"]]).text == "a\nb"


def test_a_broken_line_fails_with_its_place() -> None:
    with pytest.raises(ParseFailed, match=r"not valid JSON: .* at line 1, column 8"):
        parsed(b'{"a":1,')


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 900 + b"1" + b"}" * 900, b"1" * 10_000])
def test_absurd_json_fails_and_does_not_crash(data: bytes) -> None:
    """Nested beyond the interpreter's depth, nested almost so deep, and a number too long to convert."""
    with contextlib.suppress(ParseFailed):
        assert parsed(data).text


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_a_row_is_split_by_the_delimiter_that_fits_the_columns(mark: str) -> None:
    data = mark.join(["1", '"say ""a, b; c"""', "x"]).encode() + b"\r\n"
    assert row(data, "id", "text", "n").text == 'say "a, b; c"'


def test_a_row_keeps_quoted_newlines_and_names_its_columns() -> None:
    assert row(b'7,"a\nb",', "n", "note", "empty").text == "n: 7\nnote: a\nb"


def test_a_row_in_windows_latin1_is_read() -> None:
    assert row("1,café".encode("cp1252"), "id", "text").text == "café"


def test_a_csv_without_rows_says_so() -> None:
    with pytest.raises(ParseFailed, match="no rows below a header"):
        row(b"")
