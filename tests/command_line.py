"""Celeriac as its users run it: ``manage.py`` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Outcome:
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)

    @property
    def error_lines(self) -> list[str]:
        """Lines of standard error that aren't empty."""
        return [line for line in self.err.splitlines() if line.strip()]


class CommandLine:
    """Runs commands with one environment, such as that of a stack."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = {**os.environ, **environment, "NO_COLOR": "1", "COLUMNS": "200"}

    def __call__(self, *arguments: str, stdin: bytes | None = None, timeout: float = 120) -> Outcome:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            input=stdin if stdin is not None else b"",
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """The command under way."""
        return subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def with_environment(self, **changes: str) -> CommandLine:
        """The same with other variables."""
        return CommandLine({**self.environment, **changes})
