from __future__ import annotations

import random
import time

import pytest

from pipeline.sentences import MAX_CHARS, sentences


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith met Mr. J. R. Doe at 3.5 km from here.",
        "Set a limit, e.g. Redis, i.e. the broker, etc. before you start.",
        "He served in the U.S. Army until 1999.",
        "See Fig. 3 and Sec. 2 of vol. IV.",
        "Version 5.7.0 is out.",
        "Das ist z. B. Herr Prof. Müller.",
        "It ends at 5 p.m. today.",
        '"Why?" she asked.',
    ],
)
def test_a_full_stop_inside_a_sentence_does_not_end_it(text: str) -> None:
    assert split(text) == [text]


@pytest.mark.parametrize(
    "text",
    [
        ["Acks are late.", "Retries are not!", "Are they?", "Yes…"],
        ["They moved to the U.S.", "The house was sold."],
        ["He said “stop.”", "Nobody did."],
        ["It was 1999.", "Then came Redis."],
        ["So do I.", "Next one."],
        ["¿Qué es?", "Es un nodo."],
    ],
)
def test_sentences_end_at_their_full_stops(text: list[str]) -> None:
    assert split(" ".join(text)) == text


def test_scripts_without_spaces_are_split_at_their_own_full_stops() -> None:
    assert split("这是第一句。这是第二句！「你好。」第三句？") == [
        "这是第一句。",
        "这是第二句！",
        "「你好。」",
        "第三句？",
    ]
    assert split("यह पहला है। यह दूसरा है।") == ["यह पहला है।", "यह दूसरा है।"]


def test_wrapped_lines_of_prose_are_one_sentence() -> None:
    text = "The worker acknowledges a message late, that is,\nafter the task has ended. A crash then gives\nit back."
    assert split(text) == [
        "The worker acknowledges a message late, that is,\nafter the task has ended.",
        "A crash then gives\nit back.",
    ]


def test_headings_items_rows_and_lines_of_code_end_with_their_line() -> None:
    text = (
        "# Queues\nTasks wait in queues\n- ask\n- ingest. Slow\n2. third\n| a | b |\n|---|---|\n| 1 | 2 |\n"
        "```py\nx = 1\ny = f(x)\n```\nAfter it."
    )
    assert split(text) == [
        *("# Queues", "Tasks wait in queues", "- ask", "- ingest.", "Slow", "2. third"),
        *("| a | b |", "|---|---|", "| 1 | 2 |", "```py", "x = 1", "y = f(x)", "```", "After it."),
    ]


def test_a_title_above_a_paragraph_is_a_sentence_of_its_own() -> None:
    text = "Get started\nWhoever is new to queues begins here and learns the essentials of brokers and workers."
    assert split(text)[0] == "Get started"


@pytest.mark.parametrize("text", ["", "   ", "\n\n \t\n", "\u2028"])
def test_a_blank_text_has_no_sentence(text: str) -> None:
    assert sentences(text) == []


def test_a_sentence_without_end_is_cut_between_words() -> None:
    pieces = split("word " * 1000)
    assert all(len(piece) <= MAX_CHARS and piece.startswith("word") and piece.endswith("word") for piece in pieces)
    assert all(len(piece) > MAX_CHARS // 2 for piece in pieces[:-1])


def test_spans_are_in_order_trimmed_bounded_and_lose_nothing() -> None:
    """For random texts from what trips splitters: all that isn't white space lies in exactly one span."""
    parts = [
        "a",
        "Bc",
        "e.g.",
        "U.S.",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\r\n",
        ". ",
        "!",
        "。",
        "- ",
        "# ",
        "|",
        "```",
        "> ",
        "1.",
    ]
    parts += ["x" * 700, "\u2028", "\x0c", "😀", "“", "”", "[1]"]
    chance = random.Random(7)
    for _ in range(2000):
        text = "".join(chance.choices(parts, k=chance.randint(0, 25)))
        spans = sentences(text)
        ends = [0, *(end for _, end in spans)]
        assert all(before <= start < end for before, (start, end) in zip(ends, spans, strict=False)), text
        assert all(text[start:end].strip() == text[start:end] for start, end in spans), text
        assert all(end - start <= MAX_CHARS for start, end in spans), text
        assert "".join("".join(split(text)).split()) == "".join(text.split()), text


@pytest.mark.parametrize("part", [".", "a.", "a. ", "x", "word ", '!"', "-", "# ", "- ", " ", "。"])
def test_time_is_linear_whatever_the_text_holds(part: str) -> None:
    """A million characters of it. What is quadratic takes minutes."""
    text = part * (1_000_000 // len(part))
    begun = time.process_time()
    sentences(text)
    assert time.process_time() - begun < 3
