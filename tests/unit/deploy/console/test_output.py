"""Tables for people, and what programs read."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest

from deploy.console.output import room_beside, say_json, say_table
from pipeline.types import Failure

ID = "5f09dd8b-3c1e-4b57-9d3a-0c8f3f1a7d11"
AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
ROWS = [[ID, AT, 12_345, f"What is a {'long ' * 20}question?"]]
COLUMNS = ("id", "used", "turns", "first question")


def test_at_a_terminal_long_text_is_folded_but_no_id_number_or_time(screen: io.StringIO) -> None:
    say_table("", COLUMNS, ROWS)
    lines = screen.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert len(lines) > 2
    assert f"{ID}  2026-01-02 03:04  12,345  What" in lines[1]


def test_elsewhere_a_row_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    say_table("Conversations", COLUMNS, ROWS)
    title, _, row = capsys.readouterr().out.splitlines()
    assert title.strip() == "Conversations"
    assert ID in row
    assert row.rstrip().endswith("long question?")


def test_what_a_terminal_leaves_beside_a_table_fits_there(screen: io.StringIO) -> None:
    columns, rows = ("stage", "ran ms"), [["generate", 1234.5], ["embed", 3.25]]
    room = room_beside(columns, rows)
    assert room is not None
    say_table("", (*columns, "bar"), [[*row, "█" * room] for row in rows], unbroken=("bar",))
    assert [len(line) for line in screen.getvalue().splitlines()[1:]] == [80, 80]


def test_where_there_is_no_terminal_nothing_says_how_much_room_there_is() -> None:
    assert room_beside(("stage",), [["embed"]]) is None


def test_all_times_in_a_json_document_are_written_alike(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    failure = Failure(
        number=0, document="", stage="", attempt=1, code="", message="", hint="", retryable=False, failed_at=at
    )
    say_json({"at": at, "failure": failure})
    said = json.loads(capsys.readouterr().out)
    assert said["at"] == said["failure"]["failed_at"] == "2026-01-02T03:04:05.000678Z"
