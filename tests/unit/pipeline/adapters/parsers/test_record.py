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


def test_aliases_come_from_texts_and_lists_once_each_and_may_be_missing() -> None:
    record = {"text": "x", "aka": ["ACK", " late\nack ", "", None, {"no": 1}], "code": 7, "other": "ACK"}
    fields = RecordFields(aliases=("aka", "code", "other", "absent"))
    assert parsed(record, fields).aliases == ("ACK", "late ack", "7")


def test_fields_may_lie_at_dotted_paths() -> None:
    record = {"doc": {"body": "B", "head": {"title": "T"}, "aka": ["A"], "tags": ["x"]}}
    names = {"text": ("doc.body",), "title": "doc.head.title", "aliases": ("doc.aka",), "metadata": ("doc.tags",)}
    document = parsed(record, RecordFields.decode(names))
    assert (document.text, document.title, document.aliases) == ("B", "T", ("A",))
    assert document.metadata == {"doc.tags": ["x"]}


def test_scalars_without_another_use_are_kept_as_metadata() -> None:
    record = {"id": 1, "title": "T", "text": "x", "aka": "a", "lang": "de", "n": 3, "ok": False, "none": None}
    odd = {"nan": float("nan"), "list": [1], "essay": "x" * 1000, "empty": ""}
    assert parsed(record | odd, RecordFields(aliases=("aka",))).metadata == {"lang": "de", "n": 3, "ok": False}


def test_guessed_metadata_have_a_bound_and_those_asked_for_have_one_that_is_told() -> None:
    record = {"text": "x"} | {f"f{n}": "y" * 400 for n in range(100)}
    assert 5 < len(parsed(record).metadata) < 12
    with pytest.raises(ParseFailed, match=r"metadata have 41,\d+ bytes; the limit is 16,384"):
        parsed(record, RecordFields(metadata=tuple(f"f{n}" for n in range(100))))


def test_aliases_and_metadata_hold_nothing_that_postgres_refuses() -> None:
    record = {"text": "x", "aka": "a\0b", "k\0": "v\0\ud800", "deep": {"n\0": [float("inf"), "\0"]}}
    document = parsed(record, RecordFields(aliases=("aka",), metadata=("k\0", "deep")))
    assert document.aliases == ("ab",)
    assert "\\u0000" not in json.dumps(document.metadata)
    assert "\\ud800" not in json.dumps(document.metadata)
    assert "Infinity" not in json.dumps(document.metadata)


def test_a_record_written_out_as_a_whole_has_no_metadata_beside() -> None:
    assert parsed({"sku": "x1", "price": 2}).metadata == {}


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
