"""Real Celery workers for tests, each a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUEUES = "ask,ingest,parse,control"


class WorkerProcess:
    """A worker that serves ``queues``; its log goes to ``log``."""

    def __init__(
        self,
        environment: Mapping[str, str],
        log: Path,
        *,
        name: str,
        queues: str = QUEUES,
        pool: str = "gevent",
        concurrency: int = 20,
        options: Sequence[str] = (),
    ) -> None:
        self.log = log
        self.name = f"{name}@test"
        command = [sys.executable, "-m", "celery", "-A", "tasks.app", "worker", "-P", pool, "-c", str(concurrency)]
        common = ["-Q", queues, "-n", self.name, "--without-gossip", "--without-mingle", "-l", "INFO"]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, *common, *options],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_until_ready(self, within: float = 60.0) -> None:
        """Until it says that it takes tasks."""
        end = time.monotonic() + within
        while " ready." not in self.log.read_text(errors="replace"):
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the worker did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9, with its children."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)

    def stop(self) -> None:
        """A warm shutdown; what doesn't end is killed."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
