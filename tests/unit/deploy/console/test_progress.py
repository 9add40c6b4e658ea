"""What is shown of a run."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from deploy.console import progress as shown
from deploy.console.progress import MOST_FAILURES, Screen, StageCount, bars, failure_line, headline, stage_counts
from pipeline.types import Failure, Progress

HALFWAY = Progress(
    waiting={"parse": 40, "embed": 25, "upsert": 5}, done=20, unchanged=7, failed=3, chunks=90, embedded=60
)


def failure(number: int = 1, **changes: object) -> Failure:
    facts = {
        "number": number,
        "document": f"/docs/{number}.pdf",
        "stage": "parse",
        "attempt": 1,
        "code": "ParseFailed",
        "message": "It is not a PDF file.",
        "hint": "Mend it.",
        "failed_at": datetime.now(UTC),
    }
    return Failure.model_validate(facts | changes)


class TestStages:
    def test_what_waits_for_a_stage_has_those_before_it_behind(self) -> None:
        assert stage_counts(HALFWAY) == [
            StageCount("parse", waiting=40, through=60),
            StageCount("chunk", waiting=0, through=60),
            StageCount("embed", waiting=25, through=35),
            StageCount("upsert", waiting=5, through=30),
        ]
        assert stage_counts(HALFWAY)[-1].through == HALFWAY.over

    def test_a_second_index_is_made_of_chunks(self) -> None:
        counts = stage_counts(Progress(waiting={"embed": 3}, done=2), "reembed")
        assert counts == [StageCount("embed", 3, 2), StageCount("upsert", 0, 2)]


class TestHeadline:
    def test_it_says_what_is_known(self) -> None:
        said = headline(HALFWAY, 3.5)
        assert said == "30 of 100 sources · 3 failed · 3.5/s · time left 20 s · 90 chunks · 60 texts embedded"

    def test_it_is_honest_at_the_start(self) -> None:
        said = headline(Progress(waiting={"parse": 5}), None)
        assert said == "0 of 5 sources · time left unknown · 0 chunks · 0 texts embedded"

    def test_when_all_are_through_the_run_is_being_finished(self) -> None:
        assert "finishing" in headline(Progress(done=5), 1.0)

    def test_the_bars_have_every_stage_and_the_headline(self) -> None:
        console = Console(file=io.StringIO(), width=120, record=True)
        console.print(bars(HALFWAY, "ingest", None))
        lines = console.export_text().splitlines()
        assert [line.split()[0] for line in lines[:4]] == ["parse", "chunk", "embed", "upsert"]
        assert lines[2].split()[-4:] == ["35", "through", "25", "wait"]
        assert lines[4].rstrip() == headline(HALFWAY, None)


class TestFailures:
    def test_one_line_says_stage_document_what_and_what_to_do(self) -> None:
        assert failure_line(failure()) == "failed at parse: /docs/1.pdf: It is not a PDF file. Mend it."

    @pytest.mark.parametrize("evil", ["\x1b[2J", "\r", "\x07", "\x9b31m", "\n", "\x08", "\0"])
    def test_a_name_can_not_command_the_terminal(self, evil: str) -> None:
        line = failure_line(failure(document=f"a{evil}b", message=f"c{evil}d"))
        assert line.isprintable()

    def test_each_is_shown_once_and_of_many_only_the_first(self, capsys: pytest.CaptureFixture[str]) -> None:
        screen = Screen(quiet=False)
        many = [failure(number) for number in range(MOST_FAILURES + 5)]
        screen.show_failures(many[:3])
        assert screen.wants_failures(4)
        assert not screen.wants_failures(3)
        screen.show_failures(many)
        assert not screen.wants_failures(1000)
        lines = capsys.readouterr().out.splitlines()
        assert lines == [failure_line(each) for each in many[:MOST_FAILURES]]


class TestScreen:
    """Standard error is no terminal here."""

    def test_a_log_gets_a_line_now_and_then(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 100.0
        monkeypatch.setattr(shown.time, "monotonic", lambda: now)
        with Screen(quiet=False) as screen:
            for seconds in (1, 9, 10.5, 12, 21):
                now = 100.0 + seconds
                screen.show(HALFWAY, "ingest", 3.5)
        lines = capsys.readouterr().err.splitlines()
        assert lines == [f"{headline(HALFWAY, 3.5)} · waiting: parse 40, embed 25, upsert 5"] * 2

    def test_a_program_gets_nothing(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shown, "LINE_EVERY", 0.0)
        with Screen(quiet=True) as screen:
            screen.show(HALFWAY, "ingest", 3.5)
            screen.show_failures([failure()])
            screen.say("Postgres can't be reached.")
            assert not screen.wants_failures(1)
        assert capsys.readouterr() == ("", "")
