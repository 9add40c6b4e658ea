from __future__ import annotations

import random

import pytest

from pipeline.adapters.parsers import all_parsers, package
from pipeline.errors import ParseFailed
from pipeline.types import ParsedDocument, RecordFields, Source
from tests.office_files import BODY, archive, docx_file, edited, lying, pptx_file, xlsx_file

FILES = {"docx": docx_file("x"), "pptx": pptx_file(("x", "y", "")), "xlsx": xlsx_file({"S": [["x"]]})}


def parsed(data: bytes, format_: str = "docx") -> ParsedDocument:
    source = Source(key="k", origin=f"/data/file.{format_}", format=format_)
    return all_parsers()[format_].parse(data, source, RecordFields())


@pytest.mark.parametrize("format_", FILES)
@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda _: b"hello", "not a [A-Z]+ file"),
        (lambda _: b"\xd0\xcf\x11\xe0" + b"\0" * 600, "older (DOC|PPT|XLS) format or encrypted"),
        (lambda _: archive({"x": b"y"}), "damaged"),
        (lambda data: data[:-500], "cut off"),
        (lambda data: data[:1000] + bytes(1000) + data[2000:], "damaged|cut off"),
        (lambda data: edited(data, "[Content_Types].xml", lambda xml: xml[: len(xml) // 2]), "damaged"),
    ],
    ids=["no archive", "old format", "other archive", "cut off", "overwritten", "half a part"],
)
def test_what_is_no_office_file_says_why(format_: str, damage: object, cause: str) -> None:
    with pytest.raises(ParseFailed, match=cause) as caught:
        parsed(damage(FILES[format_]), format_)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("format_", FILES)
def test_a_zip_bomb_is_refused_before_it_is_unpacked(format_: str) -> None:
    bomb = edited(FILES[format_], "bomb.xml", lambda _: bytes(40_000_000))
    assert len(bomb) < 100_000
    with pytest.raises(ParseFailed, match=r"unpacks \d\d,\d{3} bytes to 40,\d{3},\d{3}, more than 200 to 1"):
        parsed(bomb, format_)


def test_an_archive_of_too_much_or_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "MAX_UNPACKED_BYTES", 1_000_000)
    with pytest.raises(ParseFailed, match="unpacks to 1,000,001 bytes; the limit is 1,000,000"):
        parsed(archive({"x": random.Random(1).randbytes(1_000_001)}))
    with pytest.raises(ParseFailed, match="archive of 20,000 parts; the limit is 10,000"):
        parsed(archive({f"{n}.xml": b"" for n in range(20_000)}))


def test_a_part_is_never_inflated_beyond_its_declared_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library behind would inflate all of it, whatever it says."""
    inflated = []
    content = package._content
    monkeypatch.setattr(package, "_content", lambda *args: inflated.append(content(*args)) or inflated[-1])
    bomb = edited(docx_file("x"), BODY, lambda xml: xml + b" " * 30_000_000)
    with pytest.raises(ParseFailed):
        parsed(lying(bomb, BODY, 5_000))
    assert sum(map(len, inflated)) < 200_000


def test_pictures_and_embedded_archives_are_not_unpacked() -> None:
    data = edited(docx_file("seen"), "word/media/image1.png", lambda _: bytes(40_000_000))
    assert parsed(data).text == "seen"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (b"<w:p>" * 100_000 + b"</w:p>" * 100_000, "Excessive depth"),
        (b"&big;", "amplification|Entity"),
    ],
    ids=["nested", "entities"],
)
def test_xml_that_blows_up_is_refused_at_once(part: bytes, expected: str) -> None:
    doubled = "".join(f'<!ENTITY b{n} "{f"&b{n - 1};" * 10}">' for n in range(1, 10))
    kind = f'<!DOCTYPE x [<!ENTITY b0 "{"a" * 1000}">{doubled}<!ENTITY big "&b9;">]>'.encode()
    data = edited(docx_file("MARK"), BODY, lambda xml: xml.replace(b"?>", b"?>" + kind, 1).replace(b"MARK", part))
    with pytest.raises(ParseFailed, match=expected):
        parsed(data)


def test_lack_of_memory_is_not_taken_for_damage() -> None:
    with pytest.raises(MemoryError), package.reading("DOCX", "word processor"):
        raise MemoryError
