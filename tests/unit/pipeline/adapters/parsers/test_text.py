from __future__ import annotations

import os

import pytest

from pipeline.adapters.parsers.text import TextParser, decode
from pipeline.errors import ParseFailed
from pipeline.types import RecordFields, Source

SAMPLES = [
    ("latin-1", "naïve café"),
    ("cp1252", "He said “hello” — it’s 5 €"),
    ("cp1252", "El niño comió piñas; ¿qué pasó después?"),
    ("cp1252", "Die Straße führt größtenteils durch Wälder."),
    ("cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy."),
    ("cp1250", "Zażółć gęślą jaźń. Wszyscy ludzie rodzą się wolni i równi."),
    ("cp1251", "Все люди рождаются свободными и равными в своем достоинстве и правах."),
    ("shift_jis", "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。"),
    ("gb18030", "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心"),
    ("utf-8", "naïve café 漢字 👩‍🔬"),
    ("utf-8-sig", "naïve"),
    ("utf-16", "naïve café"),
    ("utf-32", "naïve café"),
]


@pytest.mark.parametrize(("encoding", "text"), SAMPLES)
def test_text_is_decoded_as_what_it_is(encoding: str, text: str) -> None:
    assert decode(text.encode(encoding)) == text


def test_a_few_broken_bytes_leave_utf8_what_it_is() -> None:
    assert decode(("größer " * 100).encode() + b"\xff") == "größer " * 100 + "\ufffd"


@pytest.mark.parametrize("data", [os.urandom(5000), b"\x7fELF\0\0\0" * 100, b"\x89PNG\r\n\x1a\n\0\0" * 50])
def test_binary_content_is_refused(data: bytes) -> None:
    with pytest.raises(ParseFailed, match="not a text file"):
        decode(data)


def test_terminal_colours_leave_no_trace() -> None:
    source = Source(key="k", origin="/logs/app server.log", format="text")
    document = TextParser().parse(b"\x1b[31merror\x1b[0m\fnext page", source, RecordFields())
    assert document.text == "error\nnext page"
    assert document.title == "app server"
