from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipeline.ingest.origins import MAX_KEY_BYTES, decode_path, encode_path, safe_key

PATHS = [
    b"/a/plain name.txt",
    "/ü/漢字.md".encode(),
    b"/bad\xff\xfebytes.pdf",
    b"/two\nlines",
    b"/back\\slash\\x41",
    b"/%41",
]


@pytest.mark.parametrize("raw", PATHS)
def test_a_path_survives_json_and_utf8(raw: bytes) -> None:
    path = Path(os.fsdecode(raw))
    text = json.loads(json.dumps(encode_path(path)).encode("utf-8"))
    assert os.fsencode(decode_path(text)) == raw
    assert text.isprintable()


def test_an_ordinary_path_reads_as_it_is() -> None:
    assert encode_path("/data/my file (1) – ü.pdf") == "/data/my file (1) – ü.pdf"


def test_a_short_key_stays_as_it_is() -> None:
    assert safe_key("https://example.org/a?b=c#d") == "https://example.org/a?b=c#d"


def test_long_keys_fit_an_index_and_stay_apart() -> None:
    first, second = safe_key("é" * 5000 + "1"), safe_key("é" * 5000 + "2")
    assert first != second
    assert len(first.encode()) <= MAX_KEY_BYTES


def test_a_key_never_holds_what_postgres_refuses() -> None:
    assert safe_key("a\0b\ud800") == "a\\x00b\\ud800"
