"""Flower can stop workers: it does not run without a login."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).resolve().parents[4] / "deploy" / "flowerconfig.py"
LOAD = """\
from flower.command import apply_env_options, apply_options
from flower.options import options
apply_env_options()
apply_options("flower", [f"--conf={__import__('sys').argv[1]}"])
print(options.persistent, options.enable_events)
"""


def load(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LOAD, str(CONFIG)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_without_a_login_it_ends_with_one_line_and_status_2() -> None:
    done = load()
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "FLOWER_BASIC_AUTH" in done.stderr


@pytest.mark.parametrize("login", [{"FLOWER_BASIC_AUTH": "me:secret"}, {"FLOWER_AUTH": r".*@example\.com"}])
def test_with_a_login_it_runs_and_persists_nothing(login: dict[str, str]) -> None:
    assert load(**login).stdout.split() == ["False", "False"]


def test_the_environment_may_turn_task_events_on() -> None:
    assert load(FLOWER_BASIC_AUTH="me:secret", FLOWER_ENABLE_EVENTS="true").stdout.split() == ["False", "True"]
