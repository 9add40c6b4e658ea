from __future__ import annotations

import unicodedata

import pytest

from pipeline.ask.guard import check_text
from pipeline.errors import BadQuestion


@pytest.mark.parametrize(
    "question",
    [
        "What is a chord?",
        "Was heißt „acks_late“?",
        "队列是什么？",
        "ما هي قائمة الانتظار؟",
        "👩‍👩‍👧‍👦",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f?",
        "two\nlines\tand a tab",
        "می‌خواهم",
        "∑ = ?",
        "7",
    ],
)
def test_any_language_symbol_and_emoji_is_taken_as_it_is(question: str) -> None:
    assert check_text(question, max_chars=100) == question


def test_white_space_around_it_is_dropped_and_its_characters_composed() -> None:
    assert check_text(" \n" + unicodedata.normalize("NFD", "Müller?") + "\t ", max_chars=100) == "Müller?"


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("", "empty"),
        (" \t\n\u3000", "empty"),
        ("?!… —", "no word"),
        ("\u200d\u200d", "no word"),
        ("nul\x00", "U\\+0000"),
        ("escape \x1b[31m", "U\\+001B"),
        ("turned \u202egnp.exe", "U\\+202E"),
        ("hidden \U000e0041\U000e0042", "U\\+E0041"),
        ("\ufffdhello", "wrong encoding"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), "wrong encoding"),
    ],
)
def test_what_can_not_be_a_question_is_refused_with_what_is_wrong(question: str, says: str) -> None:
    with pytest.raises(BadQuestion, match=says) as refusal:
        check_text(question, max_chars=100)
    assert refusal.value.hint
    assert "\n" not in refusal.value.message


def test_a_question_that_is_too_long_is_told_its_length_and_the_limit() -> None:
    assert check_text("x" * 8000, max_chars=8000)
    with pytest.raises(BadQuestion, match=r"8,001 characters; at most 8,000"):
        check_text("x" * 8001, max_chars=8000)
