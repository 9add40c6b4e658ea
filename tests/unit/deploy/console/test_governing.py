from __future__ import annotations

import time
from typing import Any

import pytest

from deploy.console.governing import print_upstreams, upstreams_of
from pipeline.governor import UpstreamReport
from pipeline.settings import Settings
from pipeline.wiring import Parts


def report(**changes: Any) -> dict[str, Any]:
    known = {"kind": "chat", "service": "openai", "model": "gpt-6-luna", "breaker": "closed"}
    return UpstreamReport(**{**known, **changes}).model_dump(mode="json")


def test_limits_are_shown_with_what_is_used_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    print_upstreams([report(limit_requests=600, requests=42, bulk_requests=7, limit_tokens=90_000, told=True)])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "gpt-6-luna" in line]
    assert line.split() == ["chat", "gpt-6-luna", "closed", "42", "/", "600*", "0", "/", "90,000*", "0.000"]


def test_what_is_not_called_is_named_with_its_cause(capsys: pytest.CaptureFixture[str]) -> None:
    print_upstreams([report(breaker="open", since=time.time(), cause="openai answered 500: It broke.")])
    assert "is not called since" in (said := capsys.readouterr().out)
    assert "openai answered 500: It broke." in said


def test_without_redis_nothing_is_known_and_nothing_fails() -> None:
    assert upstreams_of(Parts(Settings(REDIS_URL="redis://127.0.0.1:1/0"))) == []  # type: ignore[call-arg]
    assert upstreams_of(Parts(Settings())) == []
