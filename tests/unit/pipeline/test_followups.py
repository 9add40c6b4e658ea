from __future__ import annotations

import pytest

from pipeline.followups import carried_over, recent
from pipeline.types import Exchange


def turn(question: str, answer: str = "So.", **fields: object) -> Exchange:
    return Exchange.model_validate({"number": 1, "question": question, "answer": answer, **fields})


BREAD = turn("How is sourdough bread made?")


@pytest.mark.parametrize(
    ("question", "standalone"),
    [
        ("And how long does it take?", "And how long does it take? (sourdough bread made)"),
        ("Why?", "Why? (sourdough bread made)"),
        ("How long did that take?", "How long did that take? (sourdough bread made)"),
        ("Which language is spoken there?", "Which language is spoken there? (sourdough bread made)"),
        ("What temperature?", "What temperature? (sourdough bread made)"),
        ("Which flour makes the best of them?", "Which flour makes the best of them? (sourdough bread made)"),
        ("Und wie lange dauert das bei dieser Temperatur?", None),
        ("How is rye bread baked in their ovens?", "How is rye bread baked in their ovens? (sourdough made)"),
    ],
)
def test_a_question_that_leaves_something_out_takes_it_from_the_one_before(question: str, standalone: str) -> None:
    expected = standalone or f"{question} (sourdough bread made)"
    assert carried_over(question, [BREAD]) == expected


@pytest.mark.parametrize(
    "question",
    [
        "Which river flows into the Caspian Sea?",
        "Is there a river in Texas?",
        "Which is the river that flows through Paris?",
        "When a worker dies in mid-task, does it lose its messages for good?",
    ],
)
def test_a_question_that_says_all_itself_stays_as_it_is(question: str) -> None:
    assert carried_over(question, [BREAD]) == question


def test_without_turns_before_it_nothing_can_be_carried_over() -> None:
    assert carried_over("Why?", []) == "Why?"


def test_what_a_follow_up_took_on_is_carried_further() -> None:
    """The third question gets the subject of the first by way of the second."""
    second = turn("How long does it take?", standalone=carried_over("How long does it take?", [BREAD]))
    third = carried_over("And why?", [BREAD, second])
    assert {"sourdough", "bread"} <= set(third.strip(")").split("(")[1].split())


def test_what_is_carried_over_is_bounded() -> None:
    long = turn(" ".join(f"word{n}" for n in range(500)))
    assert carried_over("Why?", [long]) == f"Why? ({' '.join(f'word{n}' for n in range(488, 500))})"


def test_the_last_turns_that_fit_are_kept_in_their_order() -> None:
    turns = [turn(f"Question {n}?", "word " * 20) for n in range(5)]
    assert recent(turns, 1000) == tuple(turns)
    kept = recent(turns, 74)
    assert [one.question for one in kept] == ["Question 3?", "Question 4?"]
    assert kept[1] == turns[4]


def test_an_answer_beyond_the_bound_is_cut_at_a_whole_character() -> None:
    (kept,) = recent([turn("Why?", "ä" * 1000)], 50)
    assert 1 < len(kept.answer) <= 75
    assert set(kept.answer) == {"ä", "…"}


def test_a_question_that_does_not_fit_is_left_out() -> None:
    assert recent([turn("Why? " * 100)], 50) == ()
