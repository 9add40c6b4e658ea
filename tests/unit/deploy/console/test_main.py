"""What becomes of an error, as a process of its own shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.console import main
from pipeline.errors import CeleriacError
from tests.command_line import ROOT

COMMANDS = ["--help", "status --json"]


def run(command: str, redirection: str, home: Path) -> tuple[int, list[str]]:
    """Exit status, and lines on standard error, of a command whose standard output the shell redirects."""
    line = f"exec {sys.executable} manage.py {command} {redirection}"
    environment = {**os.environ, "CELERIAC_HOME": str(home)}
    done = subprocess.run(
        ["sh", "-c", line], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    return done.returncode, [text for text in done.stderr.splitlines() if "Redis can't be reached" not in text]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("redirection", "cause"), [("> /dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
def test_output_that_nobody_takes_is_told_in_one_line(
    command: str, redirection: str, cause: str, unbuffered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    status, (line,) = run(command, redirection, tmp_path)
    assert status == 1
    assert f"Standard output can't be written: {cause}." in line


def test_a_reader_who_leaves_early_is_told_nothing(tmp_path: Path) -> None:
    assert run("--help", "| true", tmp_path)[1] == []


@pytest.mark.parametrize("message", ["It broke", "It broke."])
def test_a_defect_is_a_sentence_and_says_where_to_look(message: str) -> None:
    found = main._ours(RuntimeError(message))
    assert isinstance(found, CeleriacError)
    assert str(found).startswith("RuntimeError: It broke. This is a defect;")
