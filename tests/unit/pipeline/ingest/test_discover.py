from __future__ import annotations

import csv
import io
import json
import os
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import BadSettings, NotFound
from pipeline.ingest.discover import discover
from pipeline.ingest.origins import decode_path
from pipeline.types import RecordFields, Source

LIMIT = 1_000_000


def found(*paths: Path, fields: RecordFields | None = None, limit: int = LIMIT) -> list[Source]:
    return list(discover(paths, fields=fields or RecordFields(), max_record_bytes=limit))


def slices(sources: list[Source]) -> Iterator[bytes]:
    for source in sources:
        assert source.offset is not None
        assert source.length is not None
        data = decode_path(source.origin).read_bytes()
        yield data[source.offset : source.offset + source.length]


def test_a_folder_gives_its_files_in_order_with_their_formats(tmp_path: Path) -> None:
    for name in ("b.MD", "a.txt", "sub/c.htm", "sub/d.docx", "e.rst"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    sources = found(tmp_path)
    assert [(Path(s.key).name, s.format) for s in sources] == [
        ("a.txt", "text"),
        ("b.MD", "markdown"),
        ("e.rst", "text"),
        ("c.htm", "html"),
        ("d.docx", "docx"),
    ]
    assert all(s.key == s.origin and s.offset is None for s in sources)


def test_hidden_files_and_dependency_folders_are_passed_over(tmp_path: Path) -> None:
    for name in (".hidden.txt", ".git/x.txt", "node_modules/x.md", "__pycache__/x.txt", "seen.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [Path(s.key).name for s in found(tmp_path)] == ["seen.txt"]


def test_unknown_kinds_links_to_nowhere_and_pipes_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    (tmp_path / "b.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "c.txt")
    skipped: list[str] = []
    sources = discover(
        [tmp_path],
        fields=RecordFields(),
        max_record_bytes=LIMIT,
        on_skip=lambda path, reason: skipped.append(f"{Path(path).name}: {reason}"),
    )
    assert list(sources) == []
    assert sorted(skipped) == [
        "a.bin: '.bin' is not a known kind of document",
        "b.txt: No such file or directory",
        "c.txt: not a regular file",
    ]


def test_each_file_comes_once_despite_loops_and_repetition(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("x")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "z.txt").symlink_to(tmp_path / "sub" / "a.txt")
    assert len(found(tmp_path, tmp_path / "sub", tmp_path / "sub" / "a.txt")) == 1


def test_a_missing_path_is_reported_before_anything_is_yielded(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(NotFound, match=r"nothing\.txt"):
        discover([tmp_path, tmp_path / "nothing.txt"], fields=RecordFields(), max_record_bytes=LIMIT)


def test_a_named_file_of_unknown_suffix_is_text_if_it_looks_so(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("Permission is hereby granted")
    (tmp_path / "wide.srt").write_bytes("Größe".encode("utf-16"))
    (tmp_path / "program").write_bytes(b"\x7fELF\x02\x01\x01\0\0\0")
    assert [s.format for s in found(tmp_path / "LICENSE", tmp_path / "wide.srt")] == ["text", "text"]
    with pytest.raises(BadSettings, match="not a known kind"):
        found(tmp_path / "program")


def test_a_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadSettings, match="not a regular file"):
        found(tmp_path / "pipe")


def test_names_that_are_no_utf8_or_hold_newlines_can_be_opened_from_their_origin(tmp_path: Path) -> None:
    names = [b"bad\xff.txt", b"two\nlines.txt"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(name)
    sources = [Source.decode(json.loads(json.dumps(s.encode()).encode())) for s in found(tmp_path)]
    assert sorted(decode_path(s.origin).read_bytes() for s in sources) == names
    assert [s.key for s in sources] == [s.origin for s in sources]


def test_json_lines_give_a_source_per_record_with_its_own_id(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [b'{"id": 7}', b"", b'{"_id": "seven"}', b"broken", b'{"id": null, "uuid": "u"}', b'{"id": " "}']
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    sources = found(path)
    assert [s.key for s in sources] == ["7", "seven", f"{path}#L4", "u", f"{path}#L6"]
    assert [data.strip() for data in slices(sources)] == [line for line in lines if line]
    assert {s.format for s in sources} == {"json"}


def test_the_same_record_has_the_same_key_in_every_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"sku": "x1"}')
    (tmp_path / "b.csv").write_text("name,sku\nn,x1\n")
    assert [s.key for s in found(tmp_path, fields=RecordFields(id="sku"))] == ["x1", "x1"]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_list_of_objects_gives_a_source_per_object(tmp_path: Path, indent: int | None) -> None:
    """Braces, quotes and backslashes in strings don't mislead it, also where a buffer ends in between."""
    dice = random.Random(1)
    records = [{"id": n, "t": 'x\\"{[ü ' * dice.randint(1, 500) + "\\" * dice.randint(0, 9)} for n in range(300)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(records, indent=indent, ensure_ascii=False))
    sources = found(path)
    assert [s.key for s in sources] == [str(n) for n in range(300)]
    assert [json.loads(data) for data in slices(sources)] == records


@pytest.mark.parametrize("text", ['{"a": [{"id": 1}]}', "[1, 2]", "[]", ""])
def test_other_json_is_one_document(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert [(s.key, s.offset) for s in found(path)] == [(str(path), None)]


def test_a_json_list_that_is_cut_off_gives_its_last_object_too(tmp_path: Path) -> None:
    """So that parsing reports what is missing."""
    path = tmp_path / "a.json"
    path.write_text('[{"id": 1}, {"id": 2, "t')
    assert list(slices(found(path))) == [b'{"id": 1}', b'{"id": 2, "t']


def test_csv_rows_keep_quoted_newlines_together(tmp_path: Path) -> None:
    dice = random.Random(1)
    rows = [[str(n), 'a "q",\n\nü;' * dice.randint(0, 40), 'size 5"'] for n in range(200)]
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "te xt", ""], *rows])
    sources = found(path)
    assert sources[0].columns == ("id", "te xt", "column3")
    assert [s.key for s in sources] == [row[0] for row in rows]
    assert [next(csv.reader(io.StringIO(data.decode(), newline=""))) for data in slices(sources)] == rows


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.tsv", "\t")])
def test_the_delimiter_of_a_csv_is_recognised(tmp_path: Path, name: str, mark: str) -> None:
    (tmp_path / name).write_text(f"id{mark}text\n1{mark}a, b\n")
    (source,) = found(tmp_path / name)
    assert (source.key, source.columns, source.format) == ("1", ("id", "text"), "csv")


def test_a_csv_without_ids_is_keyed_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text\n"a\nb"\nc\n')
    assert [s.key for s in found(path)] == [f"{path}#L2", f"{path}#L4"]


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.csv", "wide.csv"])
def test_a_file_without_readable_records_becomes_one_source_that_parsing_reports(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes("id\n1\n".encode("utf-16") if name.startswith("wide") else b"")
    assert [(s.key, s.offset) for s in found(tmp_path)] == [(str(tmp_path / name), None)]


@pytest.mark.parametrize(
    ("name", "head", "huge", "tail"),
    [
        ("a.jsonl", b"", b'{"id": "huge", "t": "%s"}\n', b'{"id": "after"}\n'),
        ("a.json", b'[{"id": "first"},', b'{"id": "huge", "t": "%s"}', b', {"id": "after"}]'),
        ("a.csv", b"id,t\n", b'huge,"%s"\n', b"after,x\n"),
    ],
)
def test_a_huge_record_is_yielded_by_its_place_and_not_loaded(
    tmp_path: Path, name: str, head: bytes, huge: bytes, tail: bytes
) -> None:
    """50 MB in one record: memory stays within a few times the limit, and the record after it is found."""
    path = tmp_path / name
    body = huge % (b"x" * 50_000_000)
    path.write_bytes(head + body + tail)
    tracemalloc.start()
    sources = found(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * LIMIT
    assert sources[-1].key == "after"
    assert sources[-2].key.startswith(f"{path}#")
    assert sources[-2].length == len(body)


def test_a_huge_csv_record_of_many_lines_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,t\n1,"' + "line\n" * 1000 + '"\n2,x\n')
    assert [s.key for s in found(path, limit=100)] == [f"{path}#L2", "2"]


def test_a_record_file_that_cannot_be_read_becomes_a_source_that_parsing_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1}')

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipeline.ingest.discover.RecordFile", refuse)
    assert [s.key for s in found(path)] == [str(path)]
