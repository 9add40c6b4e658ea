from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import pytest

from pipeline.errors import InternalFault, ParseFailed, UnreadableSource
from pipeline.ingest.reading import parse_document, read_source
from pipeline.types import ParsedDocument, RecordFields, Source


class Fixed:
    """A parser that finds a given document in everything."""

    def __init__(self, document: ParsedDocument) -> None:
        self._document = document

    def parse(self, data: bytes, source: Source, fields: RecordFields) -> ParsedDocument:
        return self._document


def source(path: Path | str = "/data/a.txt", **changes: object) -> Source:
    return Source.decode({"key": str(path), "origin": str(path), "format": "text", **changes})


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert read_source(source(tmp_path / "a"), max_bytes=3) == b"abc"


def test_a_record_is_read_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abcdef")
    assert read_source(source(tmp_path / "a", offset=2, length=3), max_bytes=3) == b"cde"


def test_a_vanished_file_is_named_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSource, match=r"a\.txt: No such file"):
        read_source(source(tmp_path / "a.txt"), max_bytes=3)


def test_too_large_a_file_tells_both_figures(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 2000)
    with pytest.raises(UnreadableSource, match=r"The file has 2,000 bytes; the limit is 1,000"):
        read_source(source(tmp_path / "a"), max_bytes=1000)


def test_too_large_a_record_is_refused_by_its_length(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 20)
    with pytest.raises(UnreadableSource, match="The record has 11 bytes; the limit is 10"):
        read_source(source(tmp_path / "a", offset=0, length=11), max_bytes=10)


def test_a_file_that_shrank_since_discovery_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    with pytest.raises(UnreadableSource, match="shorter than when it was found"):
        read_source(source(tmp_path / "a", offset=2, length=3), max_bytes=10)


@pytest.mark.timeout(10)
def test_a_file_is_never_read_as_it_was_at_no_moment(tmp_path: Path) -> None:
    """While somebody rewrites it in place it has one content or the other, or can't be read."""
    path, over = tmp_path / "a", threading.Event()
    path.write_bytes(b"a" * 400_000)

    def rewrite() -> None:
        # Most of the time it pauses: a busy machine that stops it then leaves no half of a file for long.
        with path.open("r+b") as file:
            for letter in itertools.cycle((b"b", b"a")):
                os.pwrite(file.fileno(), letter * 400_000, 0)
                if over.wait(0.001):
                    return

    def read_often() -> None:
        for _ in range(5):
            assert len(set(read_source(source(path), max_bytes=400_000))) == 1

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        with pytest.raises(UnreadableSource, match="changed while it was read"):
            read_often()
    finally:
        over.set()
        writer.join()
    read_often()


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(UnreadableSource, match=r"not a regular file|Is a directory"):
        read_source(source(path), max_bytes=10)


@pytest.mark.parametrize(("format_", "hint"), [("text", "put text into it"), ("pdf", "OCR")])
def test_a_document_without_text_fails_and_says_what_may_help(format_: str, hint: str) -> None:
    with pytest.raises(ParseFailed, match=f"holds no text.*{hint}"):
        parse_document(b"", source(format=format_), RecordFields(), {format_: Fixed(ParsedDocument(text=" \n"))})


def test_the_parsers_title_wins_and_a_files_name_stands_in_for_none() -> None:
    titled, untitled = Fixed(ParsedDocument(text="x", title="T")), Fixed(ParsedDocument(text="x"))
    assert parse_document(b"", source(), RecordFields(), {"text": titled}).title == "T"
    assert parse_document(b"", source(), RecordFields(), {"text": untitled}).title == "a.txt"


def test_a_record_without_a_title_has_none() -> None:
    untitled = Fixed(ParsedDocument(text="x"))
    assert parse_document(b"", source(offset=0, length=1), RecordFields(), {"text": untitled}).title == ""


def test_a_format_without_parser_is_a_defect() -> None:
    with pytest.raises(InternalFault, match="no parser for the format 'text'"):
        parse_document(b"", source(), RecordFields(), {})
