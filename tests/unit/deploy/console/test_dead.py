"""Which dead letters are meant, and how they are listed."""

from __future__ import annotations

import io
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from deploy.console.dead import cause_of, moment_of, say_letters, span_of
from pipeline.errors import AuthenticationFailed, BadSettings
from pipeline.types import DeadLetter

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def test_a_letter_takes_two_lines_of_eighty_characters_at_the_most(screen: io.StringIO) -> None:
    name, again = str(uuid.uuid4()), str(uuid.uuid4())
    error = AuthenticationFailed("No.").to_json()
    where = {"tenant": "default", "kb": "handbook", "text": "?", "stage": "generate", "task": "t", "worker": "w"}
    found = {"question_id": name, "attempts": 3, "error": error, "failed_at": NOW, "replayed_as": again}
    letter = DeadLetter.model_validate(where | found)
    say_letters([letter])
    _, line, *more = screen.getvalue().splitlines()
    assert line.split()[:6] == [name[:8], "11-21", "12:00", "default", "handbook", "generate"]
    assert line.split()[-1] == again[:8]
    assert len(more) <= 1


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("12h", 43_200), ("7d", 604_800)])
def test_a_span_of_time_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert span_of(text) == timedelta(seconds=seconds)
    assert moment_of(text, NOW) == NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "7", "d", "7w", "-7d", "1.5h", "99999d", "7d "])
def test_what_is_no_span_of_time_is_refused(text: str) -> None:
    with pytest.raises(BadSettings, match="no span of time"):
        span_of(text)


def test_a_moment_is_a_date_too_in_utc_unless_it_says_otherwise() -> None:
    assert moment_of("", NOW) is None
    assert moment_of("2026-11-20", NOW) == datetime(2026, 11, 20, tzinfo=UTC)
    assert moment_of("2026-11-20T10:00+02:00", NOW) == datetime(2026, 11, 20, 8, tzinfo=UTC)


@pytest.mark.parametrize("text", ["yesterday", "7w", "2026-13-01", "99999d"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(BadSettings, match="is no time"):
        moment_of(text, NOW)


def test_a_cause_is_the_code_of_an_error() -> None:
    assert [cause_of(text) for text in ("", "ServerFault", "InternalFault")] == ["", "ServerFault", "InternalFault"]
    for text in ("serverfault", "Nonsense", "'; --"):
        with pytest.raises(BadSettings, match="no code of an error"):
            cause_of(text)
