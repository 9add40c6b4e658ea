"""The workers of a trial, by the lines of the Procfile, and a supervisor that starts again what died."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from deploy.local.processes import ProcessRef, spawn
from deploy.local.procfile import PROJECT, ProcessSpec, read_procfile

LONGEST_PAUSE = 1.0
_ENDS_WITHIN = 10.0


class Member:
    """A place in the crew and, most of the time, the process that fills it; its log goes on over restarts."""

    def __init__(self, spec: ProcessSpec, log: Path, environment: Mapping[str, str]) -> None:
        """Nothing runs yet."""
        self.name = spec.name
        self.log = log
        self._spec = spec
        self._environment = {**environment, "PROCESS_NAME": spec.name}
        self._popen: subprocess.Popen[bytes] | None = None
        self._process: ProcessRef | None = None
        self._due = 0.0
        self._thaws_at: float | None = None

    def tend(self, pause: float) -> None:
        """Start it if it is due; bury it if it died, to be started after ``pause`` seconds; let it go on if frozen."""
        if self._thaws_at is not None and time.monotonic() >= self._thaws_at:
            self._signal(signal.SIGCONT)
            self._thaws_at = None
        if self._popen is not None and self._popen.poll() is not None:
            self.end()
            self._due = time.monotonic() + pause
        if self._popen is None and time.monotonic() >= self._due:
            self._start()

    @property
    def running(self) -> bool:
        """Whether there is a process, and it isn't frozen."""
        return self._popen is not None and self._popen.poll() is None and self._thaws_at is None

    @property
    def pid(self) -> int:
        """Of the process that fills it."""
        assert self._popen is not None, "it does not run"
        return self._popen.pid

    def children(self) -> list[ProcessRef]:
        """The processes of its pool; empty for a gevent worker, and before it is ready."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if self._popen is not None:
                return [ProcessRef.of(child.pid) for child in psutil.Process(self._popen.pid).children()]
        return []

    @property
    def kind(self) -> str:
        """Its line of the Procfile."""
        return self.name.rpartition("-")[0]

    def strike(self) -> None:
        """kill -9 to it and to its children."""
        if self._process is not None:
            self._process.kill_session()

    def end(self) -> None:
        """The same, and wait until it is gone."""
        self.strike()
        if self._popen is not None:
            self._popen.wait(_ENDS_WITHIN)
        self._popen = self._process = self._thaws_at = None

    def freeze(self, seconds: float) -> None:
        """Stop it and its children, as a machine without memory or a paused container does; they go on later."""
        self._thaws_at = time.monotonic() + seconds
        self._signal(signal.SIGSTOP)

    def is_ready(self) -> bool:
        """Whether it has said that it takes tasks, or for beat that it runs."""
        said = self.log.read_text(errors="replace") if self.log.exists() else ""
        return " ready." in said or "is starting." in said

    def _start(self) -> None:
        with self.log.open("ab") as output:
            self._popen = spawn(
                self._spec.argv,
                output=output,
                cwd=PROJECT,
                environment=self._environment,
                when_orphaned=signal.SIGTERM,
            )
        self._process = ProcessRef.of(self._popen.pid)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._process.session() if self._process is not None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class Crew:
    """All members. Not a thread: whoever owns it calls :meth:`tend` some times a second."""

    def __init__(self, kinds: Sequence[str], *, logs: Path, environment: Mapping[str, str]) -> None:
        """``kinds`` are names of lines of the Procfile, one for each member. Nothing runs yet."""
        logs.mkdir(parents=True)
        lines, programs = read_procfile(), Path(sys.executable).parent
        path = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        # Beat says that it starts on standard output, which a file would see much later.
        told = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **environment}
        names = [f"{kind}-{kinds[:place].count(kind) + 1}" for place, kind in enumerate(kinds)]
        self.members = {
            name: Member(ProcessSpec(name, lines[kind]), logs / f"{name}.log", told)
            for name, kind in zip(names, kinds, strict=True)
        }

    def tend(self) -> None:
        """Start what is due, notice what died."""
        for member in self.members.values():
            member.tend(random.uniform(0, LONGEST_PAUSE))

    def of_kind(self, *kinds: str) -> list[Member]:
        """Members of these kinds that run."""
        return [member for member in self.members.values() if member.kind in kinds and member.running]

    def are_ready(self) -> bool:
        """Whether all have started."""
        return all(member.is_ready() for member in self.members.values())

    def are_running(self) -> bool:
        """Whether none is dead or frozen."""
        return all(member.running for member in self.members.values())

    def stop(self) -> None:
        """End all at once: after a trial nothing of theirs is wanted."""
        for member in self.members.values():
            member.end()

    def log(self) -> str:
        """All that they wrote."""
        logs = (member.log for member in self.members.values())
        return "".join(log.read_text(errors="replace") for log in logs if log.exists())
