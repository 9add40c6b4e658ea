"""What programs read."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from deploy.console.output import say_json
from pipeline.types import Failure


def test_all_times_in_a_json_document_are_written_alike(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    failure = Failure(
        number=0, document="", stage="", attempt=1, code="", message="", hint="", retryable=False, failed_at=at
    )
    say_json({"at": at, "failure": failure})
    said = json.loads(capsys.readouterr().out)
    assert said["at"] == said["failure"]["failed_at"] == "2026-01-02T03:04:05.000678Z"
