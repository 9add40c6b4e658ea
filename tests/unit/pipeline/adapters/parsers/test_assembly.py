"""The normal form of texts."""

from __future__ import annotations

import pytest

from pipeline.adapters.parsers.assembly import normal_form


@pytest.mark.parametrize("plane", [0x0000, 0x10000, 0xE0000])
def test_a_character_is_treated_the_same_in_a_clean_text_and_in_an_odd_one(plane: int) -> None:
    """A text is only cleaned where something in it needs that: nothing may be forgotten there."""
    differ = [code for code in range(plane, plane + 0x10000) if normal_form(chr(code)) != normal_form(f"{chr(code)}\0")]
    assert differ == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a\r\nb\rc\x0bd\u2028e", "a\nb\nc\nd\ne"),
        ("a\xa0b\u2003c\u3000d", "a b c d"),
        ("a\x00b\x1b[31mc\u200bd\xad", "abcd"),
        ("a\ud800b", "a\ufffdb"),
        ("e\u0301", "\xe9"),
    ],
)
def test_a_text_in_normal_form(given: str, expected: str) -> None:
    assert normal_form(given) == expected
