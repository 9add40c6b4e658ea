from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.adapters.extractive import MAX_SENTENCES, ExtractiveGenerator
from pipeline.adapters.wordllama_embedder import WordllamaEmbedder
from pipeline.citations import check
from pipeline.prompts import NOT_FOUND_TEXT
from pipeline.seams import GenerationRequest
from pipeline.types import Passage

EMBEDDER = WordllamaEmbedder()


def passages(*texts: str, section: str = "") -> tuple[Passage, ...]:
    return tuple(
        Passage(chunk_id=f"c{n}", document_id="d", text=text, section=section, score=1 / n)
        for n, text in enumerate(texts, start=1)
    )


def pieces(question: str, given: tuple[Passage, ...]) -> list[str]:
    request = GenerationRequest(question=question, passages=given, messages=())
    return [delta.text for delta in ExtractiveGenerator(EMBEDDER).stream(request, timeout=5) if delta.text]


def answer(question: str, *texts: str, section: str = "") -> str:
    return "".join(pieces(question, passages(*texts, section=section)))


def test_the_sentence_that_answers_is_quoted_with_the_number_of_its_passage() -> None:
    found = answer(
        "Which database holds the truth?",
        "Redis carries messages. It forgets them when they are done.",
        "Vectors are stored apart. Postgres is the database that holds the truth. Nothing else does.",
    )
    assert "Postgres is the database that holds the truth [2]." in found


def test_a_piece_is_one_sentence_and_there_are_at_most_three() -> None:
    text = " ".join(f"A retry of kind {n} waits {n} seconds before the task runs again." for n in "abcdefgh")
    found = pieces("How long does a retry of a task wait?", passages(text))
    assert 1 <= len(found) <= MAX_SENTENCES
    assert all(piece.strip().endswith("[1].") for piece in found)


def test_what_another_passage_repeats_is_said_once() -> None:
    text = "Tasks are acknowledged late by default."
    assert answer("When are tasks acknowledged?", text, text, f"{text} ").count("[") == 1


def test_a_sentence_that_leans_on_the_one_before_brings_it_along() -> None:
    found = answer(
        "How long may a message remain unacknowledged before delivery?",
        "The visibility timeout belongs to the broker. It limits how long a message may remain unacknowledged.",
    )
    assert found.startswith("The visibility timeout belongs to the broker [1]. It limits")


def test_prose_is_preferred_to_headings_and_questions() -> None:
    found = answer(
        "What is the visibility timeout?",
        "# The visibility timeout\n\nWhat is the visibility timeout?\n\nA message that nobody acknowledges within the"
        " visibility timeout is delivered again.\n\n```\nvisibility timeout\n```",
    )
    assert found == ("A message that nobody acknowledges within the visibility timeout is delivered again [1].")


def test_the_heading_above_a_sentence_tells_what_it_speaks_of() -> None:
    found = answer(
        "What is the limit for uploads?",
        "## Downloads\n\nAt most ten at the same time are served to anyone.\n\n"
        "## Uploads: the limit\n\nAt most three at the same time are taken from anyone.",
    )
    assert found.startswith("At most three at the same time are taken from anyone [1].")


def test_markup_and_the_sources_own_markers_are_left_out() -> None:
    """A number in brackets that stands in the passage must not pass for a citation."""
    found = answer(
        "Who wrote the broker?", "- The **broker** was [written](http://x.org/a) by Ada Byron.[4][citation 7]"
    )
    assert found.startswith("The broker was written by Ada Byron.")
    assert "[4]" not in found
    assert "**" not in found


def test_code_in_a_sentence_is_left_as_it_is() -> None:
    found = answer(
        "How is late acknowledgement set?", "Late acknowledgement is set by `task(*args, **kwargs)` or `__late__`"
    )
    assert found == "Late acknowledgement is set by `task(*args, **kwargs)` or `__late__` [1]."


def test_a_quotation_keeps_its_full_stop_and_its_marker_apart() -> None:
    assert answer("What did the guide say of queues?", "The guide said “queues are empty.”") == (
        "The guide said “queues are empty.” [1]"
    )


@pytest.mark.parametrize("given", [(), ("",), ("???",), ("Bananas are yellow fruits. They grow in warm countries.",)])
def test_without_evidence_it_says_so(given: tuple[str, ...]) -> None:
    assert answer("How is the rate limit of the model shared among workers?", *given) == NOT_FOUND_TEXT


def test_a_question_in_a_script_without_spaces_is_answered() -> None:
    assert "任务默认延迟确认 [1]。" in answer("任务什么时候确认？", "队列在工作进程之前。任务默认延迟确认。")


def test_the_citations_of_an_answer_quote_its_sentences() -> None:
    given = passages("Workers start quickly. Tasks are acknowledged late by default.", "Postgres holds the truth.")
    checked = check("".join(pieces("When are tasks acknowledged?", given)), given)
    assert "Tasks are acknowledged late by default." in [citation.quote for citation in checked.citations]
    assert checked.removed == ()


def test_a_huge_passage_is_answered_from_all_the_same() -> None:
    text = "Tasks are acknowledged late by default. " + "Filler words stand here without an end. " * 20_000
    assert "acknowledged late" in answer("When are tasks acknowledged?", text)


def test_most_answers_of_a_reading_test_are_in_the_sentences_chosen(shared_data: Path) -> None:
    """The gold paragraph among five of xquad_en, every seventh question: at least 4 in 5 (measured over all: .915)."""
    folder = shared_data / "xquad_en"
    texts = {doc["_id"]: doc["text"] for doc in _lines(folder / "corpus.jsonl")}
    gold = dict(line.split("\t")[:2] for line in (folder / "qrels.tsv").read_text("utf-8").splitlines()[1:])
    answers = json.loads((folder / "answers.json").read_text("utf-8"))
    questions = _lines(folder / "queries.jsonl")[::7]
    names = list(texts)
    found = 0
    for question in questions:
        right = gold[question["_id"]]
        # The gold paragraph stands third, among neighbours: paragraphs of the same article.
        near = [name for name in names[names.index(right) - 2 :] + names if name != right][:4]
        given = passages(*(texts[name] for name in (*near[:2], right, *near[2:])))
        text = "".join(pieces(question["text"], given))
        found += any(" ".join(one.split()) in text for one in answers[question["_id"]])
    assert found / len(questions) > 0.8


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
