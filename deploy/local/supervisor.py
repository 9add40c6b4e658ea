"""Keeps the processes of the Procfile running, and ends them without losing a task.

A Celery worker must get exactly one SIGTERM: that is a warm shutdown, and a second signal would turn
it into one that loses what a gevent worker holds. Hence each process leads a session of its own, out
of reach of the terminal's Ctrl-C, and is told once; what is left after the grace period is killed.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local.processes import ProcessRef, last_lines, spawn, wait_until
from deploy.local.procfile import PROJECT, ProcessSpec

GRACE = 20.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
_STABLE_AFTER = 30.0
_LARGE_LOG = 20 * 2**20


def pause_before_start(failures: int) -> float:
    """Seconds to wait after the ``failures``-th death in a row, from 1: 0.5, 1, 2 … 10."""
    return min(_FIRST_PAUSE * 2.0 ** (min(failures, 10) - 1), _LONGEST_PAUSE)


class Supervisor:
    """Runs ``specs`` in ``project``; each writes to ``logs/<name>.log`` and finds its name in PROCESS_NAME.

    Not a thread: whoever owns it calls :meth:`poll` a few times a second, from the thread that made it.
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        *,
        logs: Path,
        environment: Mapping[str, str],
        on_event: Callable[[str], None],
        project: Path = PROJECT,
    ) -> None:
        """Nothing runs yet; :meth:`poll` starts everything."""
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._on_event = on_event
        self._children = [_Child(spec, logs / f"{spec.name}.log", project, environment) for spec in specs]

    def poll(self) -> bool:
        """Start what is due and notice what died; whether anything changed."""
        changes = [self._tend(child) for child in self._children]
        return any(changes)

    @property
    def running(self) -> dict[str, ProcessRef]:
        """The processes by name."""
        return {child.spec.name: child.process for child in self._children if child.process is not None}

    @property
    def worst(self) -> tuple[int, str]:
        """How often in a row the process that fails most has died, and the end of its log."""
        child = max(self._children, key=lambda child: child.failures)
        return child.failures, f"{child.spec.name}: {child.last_words()}"

    def stop(self, grace: float = GRACE) -> None:
        """End all processes: SIGTERM once, SIGKILL to whole sessions after ``grace`` seconds."""
        for child in self._children:
            child.terminate()
        if not wait_until(lambda: all(child.ended() for child in self._children), grace):
            late = [child.spec.name for child in self._children if not child.ended()]
            self._on_event(f"Killing what did not end within {grace:g} s: {', '.join(late)}.")
        for child in self._children:
            child.clear_away()

    def _tend(self, child: _Child) -> bool:
        if child.process is not None and child.ended():
            status, pause = child.bury()
            self._on_event(f"{child.spec.name} ended with status {status}; it starts again in {pause:g} s.")
            return True
        if child.process is None and time.monotonic() >= child.due:
            child.start()
            return True
        return False


@dataclass
class _Child:
    """One place in the supervisor's list: a spec and, most of the time, the process that fills it."""

    spec: ProcessSpec
    log: Path
    project: Path
    environment: Mapping[str, str]
    popen: subprocess.Popen[bytes] | None = None
    process: ProcessRef | None = None
    started: float = 0.0
    due: float = 0.0
    failures: int = 0
    log_start: int = 0

    def start(self) -> None:
        """Run the command; the log goes on where it ended, or anew where it has grown large."""
        if self.log.exists() and self.log.stat().st_size > _LARGE_LOG:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as output:
            self.log_start = output.tell()
            self.popen = spawn(
                self.spec.argv,
                output=output,
                cwd=self.project,
                environment={**self.environment, "PROCESS_NAME": self.spec.name},
                when_orphaned=signal.SIGTERM,
            )
        self.process = ProcessRef.of(self.popen.pid)
        self.started = time.monotonic()

    def ended(self) -> bool:
        """Whether nothing runs here; also collects the process where it just ended."""
        return self.popen is None or self.popen.poll() is not None

    def bury(self) -> tuple[int, float]:
        """Clear the place of a process that died; returns its status and the pause before the next."""
        status = self.popen.returncode if self.popen is not None else 0
        self.clear_away()
        lived = time.monotonic() - self.started
        self.failures = 1 if lived >= _STABLE_AFTER else self.failures + 1
        pause = pause_before_start(self.failures)
        self.due = time.monotonic() + pause
        return status, pause

    def terminate(self) -> None:
        """SIGTERM to the leader alone: the members of a Celery pool are ended by their worker."""
        if self.process is not None:
            self.process.send(signal.SIGTERM)

    def clear_away(self) -> None:
        """Kill whatever is left of its session: a worker that crashed leaves the members of its pool."""
        if self.process is not None:
            self.process.kill_session()
        if self.popen is not None:
            self.popen.wait()
        self.popen = self.process = None

    def last_words(self) -> str:
        """The end of what it wrote since its last start."""
        return last_lines(self.log, since=self.log_start)
