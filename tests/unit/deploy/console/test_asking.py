"""How what was found and asked is shown."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from deploy.console.asking import place
from deploy.console.conversations import with_replaced
from deploy.console.lately import print_recent
from pipeline.types import Passage, QuestionStatus, RecentQuestions, TurnRecord


@pytest.mark.parametrize(
    ("title", "section", "shown"),
    [
        ("Guide", "", "Guide"),
        ("Guide", "Guide", "Guide"),
        ("Guide", "Guide > Install", "Guide · Install"),
        ("Guide", "Guidelines > Install", "Guide · Guidelines > Install"),
        ("", "Install", "guide.md · Install"),
    ],
)
def test_a_title_that_is_the_first_section_too_is_said_once(title: str, section: str, shown: str) -> None:
    assert place(Passage(chunk_id="c", document_id="d", title=title, section=section, source="guide.md")) == shown


def turn(number: int, name: str, status: QuestionStatus) -> TurnRecord:
    at = datetime(2026, 11, 21, tzinfo=UTC)
    return TurnRecord(number=number, question_id=name, question="Why?", status=status, asked_at=at)


def test_of_a_turn_asked_anew_the_last_answer_counts() -> None:
    turns = [
        turn(1, "a", "done"),
        turn(2, "b", "done"),
        turn(2, "c", "done"),
        turn(2, "d", "failed"),
        turn(3, "e", "failed"),
    ]
    assert [(one.question_id, gone) for one, gone in with_replaced(turns) if gone] == [("b", True)]


def test_a_fraction_of_a_cent_is_no_zero(capsys: pytest.CaptureFixture[str]) -> None:
    print_recent(RecentQuestions(seconds=900.0, asked=1, done=1, cost_usd=0.00013))
    assert "0.000130" in capsys.readouterr().out
