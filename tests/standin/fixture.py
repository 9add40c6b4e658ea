"""The stand-in as a process of its own, for tests: import ``standin`` into a conftest."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0


def end(process: subprocess.Popen[str], *, within: float) -> None:
    """Terminate a process, kill it if it is there ``within`` seconds later, close its pipes. May be called twice."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


class StandInProcess:
    """A running stand-in; ``url`` ends in ``/v1``."""

    def __init__(self, *arguments: str) -> None:
        """Start it on a free port of 127.0.0.1 and wait until it listens."""
        command = [sys.executable, "-m", "tests.standin", "--port", "0", "--until-stdin-ends", *arguments]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self._first_line()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def configure(self, **config: Any) -> None:
        """Replace its configuration (see :class:`tests.standin.config.Config`)."""
        self._call("POST", "/_standin/config", config)

    def counters(self) -> dict[str, Any]:
        """What it saw since the last reset."""
        return self._call("GET", "/_standin/counters")

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 10.0) -> dict[str, Any]:
        """The counters, as soon as ``condition`` holds for them; fails after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not condition(counters := self.counters()):
            if time.monotonic() > deadline:
                raise AssertionError(f"did not come true in {seconds} s: {counters}")
            time.sleep(0.01)
        return counters

    def reset(self) -> None:
        """Count from zero, without faults."""
        self._call("POST", "/_standin/reset", {})

    def stop(self) -> None:
        """End it; may be called twice."""
        end(self._process, within=5)

    def _first_line(self) -> str:
        # A start that hangs must not hang the test run: killing it ends the read.
        killer = threading.Timer(START_SECONDS, self._process.kill)
        killer.start()
        line = self._process.stdout.readline().strip() if self._process.stdout else ""
        killer.cancel()
        if not line:
            self.stop()
            raise RuntimeError("The stand-in did not start; its own message is above.")
        return line

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url.removesuffix("/v1") + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            found: dict[str, Any] = json.load(response)
        return found


@pytest.fixture(scope="session")
def standin_process() -> Iterator[StandInProcess]:
    """One stand-in for the whole session."""
    process = StandInProcess()
    yield process
    process.stop()


@pytest.fixture
def standin(standin_process: StandInProcess) -> StandInProcess:
    """The session's stand-in, counting from zero and without faults."""
    standin_process.reset()
    return standin_process


@pytest.fixture
def start_standin() -> Iterator[Callable[..., StandInProcess]]:
    """Starts further stand-ins with arguments of their own; all are stopped at the end of the test."""
    started: list[StandInProcess] = []

    def start(*arguments: str) -> StandInProcess:
        started.append(StandInProcess(*arguments))
        return started[-1]

    yield start
    for process in started:
        process.stop()
