"""Celeriac as its users run it: ``manage.py`` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Argument = str | bytes | Path


@dataclass(frozen=True)
class Outcome:
    """What a command printed and how it ended."""

    command: str
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON; fails with all there is to see where the command did."""
        assert self.status == 0, self
        return json.loads(self.out)

    @property
    def error_lines(self) -> list[str]:
        """Lines of standard error that aren't empty."""
        return [line for line in self.err.splitlines() if line.strip()]

    def error(self, status: int) -> str:
        """The one line that says what is wrong; fails unless it is alone, without a traceback, and the status right."""
        assert self.status == status, self
        assert "Traceback" not in self.out + self.err, self
        assert len(self.error_lines) == 1, self
        assert self.error_lines[0].startswith("error: "), self
        return self.error_lines[0]


class CommandLine:
    """Runs commands with one environment, such as that of a stack."""

    def __init__(self, environment: Mapping[str, str | None]) -> None:
        merged = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment}
        self.environment = {name: value for name, value in merged.items() if value is not None}

    def __call__(self, *arguments: Argument, stdin: bytes = b"", timeout: float = 120) -> Outcome:
        done = subprocess.run(
            _command(arguments),
            cwd=ROOT,
            env=self.environment,
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        command = " ".join(map(str, arguments))[:200]
        return Outcome(command, done.returncode, done.stdout.decode(), done.stderr.decode())

    def at_once(
        self, commands: Sequence[Sequence[Argument]], *, processes: int = 20, timeout: float = 120
    ) -> list[Outcome]:
        """Each command in a process of its own, so many side by side; their outcomes in the order of the commands."""
        with ThreadPoolExecutor(processes) as pool:
            return list(pool.map(lambda arguments: self(*arguments, timeout=timeout), commands))

    def start(self, *arguments: Argument) -> subprocess.Popen[bytes]:
        """The command under way."""
        return self._start(_command(arguments), subprocess.DEVNULL)

    def start_typing(self, *arguments: Argument) -> subprocess.Popen[bytes]:
        """The command under way, which may be written to."""
        return self._start(_command(arguments), subprocess.PIPE)

    def start_python(self, program: str) -> subprocess.Popen[bytes]:
        """A user's own program under way, which may be written to."""
        return self._start([sys.executable, "-c", program], subprocess.PIPE)

    def _start(self, command: Sequence[Argument], stdin: int) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdin=stdin, stdout=pipe, stderr=pipe)

    def python(self, program: str, stdin: str = "") -> str:
        """What a user's own program prints."""
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def with_environment(self, **changes: str | None) -> CommandLine:
        """The same with other variables; None takes one away."""
        return CommandLine({**self.environment, **changes})


def _command(arguments: Sequence[Argument]) -> list[Argument]:
    return [sys.executable, "manage.py", *arguments]
