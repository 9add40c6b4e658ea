"""Programs that wait for jobs: how the benchmark talks to Celeriac's client and to its twin.

A job is a line of JSON on standard input, its outcome a line on standard output. So what is measured is asking alone,
without the start of Python, and connections are there as in a program that runs all day.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tests.benchmarks.runs import Failed
from tests.command_line import ROOT
from tests.standin.fixture import end

_START_SECONDS = 60.0


class Job(NamedTuple):
    """Ask ``questions`` questions, numbered from ``first``, of which ``in_flight`` are under way at any time."""

    questions: int
    in_flight: int
    first: int
    documents: int


class Tally:
    """What became of the questions of a job."""

    def __init__(self) -> None:
        """The clock starts now."""
        self._first: list[float] = []
        self._whole: list[float] = []
        self._inside: list[float] = []
        self._errors: Counter[str] = Counter()
        self._begun, self._cpu = time.perf_counter(), time.process_time()

    def answered(self, first: float, whole: float, inside: float = 0.0) -> None:
        """One is answered: seconds to its first piece and to its end, and what its stages took and waited."""
        self._first.append(first)
        self._whole.append(whole)
        self._inside.append(inside)

    def failed(self, error: BaseException | str) -> None:
        """One is not."""
        self._errors[error if isinstance(error, str) else f"{type(error).__name__}: {error}"] += 1

    def to_json(self) -> dict[str, Any]:
        """All of it, with the seconds and this process's processor seconds so far."""
        return {
            "seconds": time.perf_counter() - self._begun,
            "cpu": time.process_time() - self._cpu,
            "first": self._first,
            "whole": self._whole,
            "inside": self._inside,
            "errors": dict(self._errors),
        }


def serve(run: Callable[[Job], Tally]) -> None:
    """Do jobs until standard input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(Job(*json.loads(line))).to_json()), flush=True)


class Program:
    """Such a program at work."""

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        """Start it and wait until it is ready."""
        command = [sys.executable, "-m", module]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._name = module.rpartition(".")[2]
        self._line(_START_SECONDS)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def run(self, job: Job, limit: float) -> dict[str, Any]:
        """The outcome of a job; raises Failed where it ends, or is not done within ``limit`` seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._line(limit))
        return found

    def stop(self) -> None:
        """End it; may be called twice."""
        end(self._process, within=10)

    def _line(self, limit: float) -> str:
        assert self._process.stdout is not None
        killer = threading.Timer(limit, self._process.kill)  # that ends the read
        killer.start()
        line = self._process.stdout.readline()
        killer.cancel()
        if not line:
            raise Failed(f"{self._name} ended, or was not done within {limit:g} s.")
        return line
