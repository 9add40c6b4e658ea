"""A process that calls the embedding service through the governor, as often as it may: people's calls or bulk work.

    python -m tests.hammer bulk --seconds 5 < settings.json

Reads settings by the name of their variable as one line of JSON, prints ``ready``, begins with the next line that it
reads, and prints what it saw as JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from pipeline.errors import CeleriacError, Postponed, RateLimited, Unavailable
from pipeline.settings import Settings
from pipeline.wiring import Parts

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 10.0
TEXTS = 64


class Hammer:
    """What the threads of one process do, and what became of it."""

    def __init__(self, parts: Parts, seconds: float, pause: float) -> None:
        """For so many seconds from now; people pause for so long between two questions."""
        self.parts = parts
        self.pause = pause
        self.end = time.monotonic() + seconds
        self.outcomes: Counter[str] = Counter()
        self.waits: list[float] = []

    def interactive(self) -> None:
        """Ask one question after the other."""
        while time.monotonic() < self.end:
            begun = time.monotonic()
            if self._asked():
                self.waits.append(time.monotonic() - begun)
            time.sleep(random.uniform(0.5, 1.5) * self.pause)

    def bulk(self) -> None:
        """Embed one batch after the other."""
        while time.monotonic() < self.end:
            try:
                for part in self.parts.embedder.embed_parts(["some words of a text"] * TEXTS, timeout=TIMEOUT):
                    self.outcomes["texts"] += len(part.vectors)
                    if time.monotonic() > self.end:
                        return
            except CeleriacError as error:
                self._again(error)

    def _asked(self) -> bool:
        while time.monotonic() < self.end:
            try:
                self.parts.embedder.embed(["How many words?"], timeout=TIMEOUT)
            except CeleriacError as error:
                self._again(error)
            else:
                self.outcomes["done"] += 1
                return True
        return False

    def _again(self, error: CeleriacError) -> None:
        """Wait as a task does that is sent again."""
        if not isinstance(error, RateLimited | Postponed | Unavailable):
            raise error
        self.outcomes[error.code] += 1
        wait = (error.retry_after or 0.5) + random.uniform(0, 0.5)
        time.sleep(max(0.0, min(wait, self.end - time.monotonic())))


def start(lane: str, settings: dict[str, Any], *, seconds: float, threads: int = 4, pause: float = 0.0) -> Any:
    """A process that is ready to hammer."""
    options = ["--seconds", str(seconds), "--threads", str(threads), "--pause", str(pause)]
    command = [sys.executable, "-m", "tests.hammer", lane, *options]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps(settings) + "\n")
    process.stdin.flush()
    return process


def together(processes: Sequence[Any], timeout: float) -> list[dict[str, Any]]:
    """Let them begin together once all are ready; what each of them saw."""
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        return [json.loads(process.communicate(timeout=timeout)[0]) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


def p95(waits: Sequence[float]) -> float:
    """The wait that one in twenty exceeds."""
    return sorted(waits)[int(len(waits) * 0.95)]


def main() -> None:
    """Hammer once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lane", choices=["interactive", "bulk"])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.0)
    options = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    parts = Parts(Settings(**json.loads(sys.stdin.readline())))
    _ = parts.embedder
    parts.redis.ping()
    print("ready", flush=True)
    sys.stdin.readline()
    hammer = Hammer(parts, options.seconds, options.pause)
    threads = [threading.Thread(target=getattr(hammer, options.lane)) for _ in range(options.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"outcomes": hammer.outcomes, "waits": hammer.waits}))
    parts.close()


if __name__ == "__main__":
    main()
