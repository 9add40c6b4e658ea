from __future__ import annotations

import random
import re

import pytest

from pipeline.citations import MAX_QUOTE_CHARS, check
from pipeline.types import Passage

TEXTS = (
    "Workers start quickly. Tasks are acknowledged late by default. Use Redis as a broker. That is all.",
    "The broker is Redis 6.2. It restarts within seconds.\n\n- Postgres holds the truth",
    "队列在工作进程之前。任务默认延迟确认。",
)
PASSAGES = tuple(
    Passage(
        chunk_id=f"c{n}", document_id=f"d{n}", title=f"T{n}", source="s", page=n, section="S", start=1000 * n, text=text
    )
    for n, text in enumerate(TEXTS, start=1)
)


def quotes(answer: str) -> dict[int, str]:
    return {citation.number: citation.quote for citation in check(answer, PASSAGES).citations}


def test_a_citation_quotes_the_sentence_that_supports_the_claim_and_says_where_it_stands() -> None:
    (citation,) = check("By default a task is acknowledged late [1].", PASSAGES).citations
    assert citation.quote == "Tasks are acknowledged late by default."
    assert (citation.start, citation.end) == (1023, 1062)
    assert (citation.chunk_id, citation.document_id, citation.title, citation.page) == ("c1", "d1", "T1", 1)


def test_a_claim_that_rests_on_two_sentences_quotes_both() -> None:
    assert quotes("The Redis broker restarts within seconds [2].") == {
        2: "The broker is Redis 6.2. It restarts within seconds."
    }


def test_a_marker_after_the_full_stop_belongs_to_the_sentence_before_it() -> None:
    found = quotes("Tasks are acknowledged late by default. [1] Postgres holds the truth. [2] All else follows.")
    assert found == {1: "Tasks are acknowledged late by default.", 2: "- Postgres holds the truth"}


def test_of_several_claims_on_one_passage_the_best_supported_is_quoted() -> None:
    answer = "Everything is fine [1]. Tasks are acknowledged late by default [1]. Redis exists [1]."
    assert quotes(answer) == {1: "Tasks are acknowledged late by default."}


def test_a_claim_in_a_script_without_spaces_finds_its_sentence() -> None:
    assert quotes("任务会延迟确认 [3]。") == {3: "任务默认延迟确认。"}


def test_where_nothing_is_shared_the_beginning_of_the_passage_is_quoted() -> None:
    long = Passage(chunk_id="c", document_id="d", start=5, text="  " + "lorem ipsum " * 200)
    (citation,) = check("Völlig anders [1].", [long]).citations
    assert citation.start == 7
    assert 0 < len(citation.quote) <= MAX_QUOTE_CHARS
    assert citation.quote.endswith(("lorem", "ipsum"))


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("late [1][2]", "late [1][2]"),
        ("late [1, 2].", "late [1][2]."),
        ("late [1;3]", "late [1][3]"),
        ("late [1-3]", "late [1][2][3]"),
        ("late [1\u20132]", "late [1][2]"),
        ("late[^2]", "late[2]"),
        ("late【2】", "late[2]"),
        ("late【2†guide.md】", "late[2]"),
        ("late [ 1 ]", "late [1]"),
        ("late[1].", "late[1]."),
    ],
)
def test_all_spellings_of_a_marker_become_the_plain_one(written: str, plain: str) -> None:
    checked = check(written, PASSAGES)
    assert (checked.text, checked.removed) == (plain, ())
    assert [citation.number for citation in checked.citations] == [int(n) for n in sorted(re.findall(r"\d", plain))]


@pytest.mark.parametrize(
    ("written", "plain", "removed"),
    [
        ("It is late [9].", "It is late.", ("[9]",)),
        ("It is [4] late [1, 7].", "It is late [1].", ("[4]", "[1, 7]")),
        ("It is late [12][2]", "It is late[2]", ("[12]",)),
        ("It is late [900-999].", "It is late.", ("[900-999]",)),
    ],
)
def test_markers_of_no_passage_are_removed_and_reported(written: str, plain: str, removed: tuple[str, ...]) -> None:
    checked = check(written, PASSAGES)
    assert (checked.text, checked.removed) == (plain, removed)


@pytest.mark.parametrize(
    "text",
    [
        "See [1](https://example.com) for it.",
        "[1]: https://example.com",
        "Use `args[1]` here.",
        "```python\nx = rows[1]\ny = [2]\n```",
        "Then rows[1] = 5 and x[2].name and f[1](3)",
        "A probability in [0, 1] it is.",
        "In [2023] it was, [sic] and [a1].",
    ],
)
def test_links_code_indices_and_intervals_are_no_markers(text: str) -> None:
    checked = check(text, PASSAGES)
    assert (checked.text, checked.citations, checked.removed) == (text, (), ())


def test_an_answer_without_markers_has_no_citations() -> None:
    assert check("Tasks are acknowledged late.", PASSAGES).citations == ()
    assert check("", PASSAGES).citations == ()
    assert check("Late [1].", ()).removed == ("[1]",)


def test_whatever_is_written_citations_are_exact_and_the_text_names_only_them() -> None:
    """For random answers: quotes are what stands at their offsets; numbers are unique and exist; checking is final."""
    parts = [
        "Tasks are late",
        "Redis",
        " ",
        ". ",
        "\n",
        "[1]",
        "[2][3]",
        "[1, 9]",
        "【3】",
        "[^2]",
        "`",
        "```",
        "x[1]",
        "(",
        "[",
    ]
    parts += ["[1](u)", "队列。", "[0]", "[1-3]", "😀", "]"]
    chance = random.Random(3)
    for _ in range(2000):
        answer = "".join(chance.choices(parts, k=chance.randint(0, 14)))
        checked = check(answer, PASSAGES)
        numbers = [citation.number for citation in checked.citations]
        assert numbers == sorted(set(numbers))
        for citation in checked.citations:
            passage = PASSAGES[citation.number - 1]
            assert citation.quote == passage.text[citation.start - passage.start : citation.end - passage.start]
            assert citation.quote
            assert f"[{citation.number}]" in checked.text
        assert check(checked.text, PASSAGES).removed == (), answer
