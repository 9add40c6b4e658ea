"""Processes that outlive the one which started them: how to start, recognise and stop them.

A pid alone says little: it is given to somebody else once its owner is gone. What is stored is a
:class:`ProcessRef`, a pid with the birth of its process, and nothing else is ever signalled.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil
from pydantic import BaseModel, ConfigDict

SIGNALS_ORPHANS = sys.platform == "linux"
"""Whether a child can ask the kernel for a signal when its parent dies."""

_POLL = 0.05
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ProcessRef(BaseModel):
    """One process, for good: ``birth`` differs for every process that ever has this pid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    birth: str

    @classmethod
    def of(cls, pid: int) -> ProcessRef:
        """The process that has this pid now; one that is gone already gives a reference that is never alive."""
        return cls(pid=pid, birth=_birth(pid) or "gone")

    def alive(self) -> bool:
        """Whether it still runs; one that ended and waits for its parent to notice does not."""
        return _birth(self.pid) == self.birth

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process only, if it is still there."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether it is gone within ``seconds``."""
        return wait_until(lambda: not self.alive(), seconds)

    def kill_session(self) -> None:
        """SIGKILL to it and to every process of the session it leads."""
        for pid in self.session():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def session(self) -> list[int]:
        """Pids of the session it leads, itself included.

        The kernel gives a pid to nobody else while a session of that number exists, so members left
        behind by a dead leader are its own; where somebody else leads it, the list is empty.
        """
        return [] if _birth(self.pid) not in (None, self.birth) else _members(self.pid)


def spawn(
    command: Sequence[str],
    *,
    output: IO[bytes],
    cwd: Path,
    environment: Mapping[str, str],
    account: tuple[int, int] | None = None,
    when_orphaned: signal.Signals | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``command`` as the leader of a session of its own, out of reach of the terminal's Ctrl-C.

    ``account`` is (uid, gid) to run as. ``when_orphaned`` is sent to it when the thread that called
    this ends without having stopped it (Linux only).
    """
    user, group = account or (None, None)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=dict(environment),
        start_new_session=True,
        user=user,
        group=group,
        extra_groups=None if account is None else [],
        preexec_fn=_orphan_signal(when_orphaned),
    )


def disown(child: subprocess.Popen[bytes]) -> ProcessRef:
    """Let a child live on: it is known by reference from now on, and nobody has to wait for it."""
    reference = ProcessRef.of(child.pid)
    child.returncode = 0  # else its object complains when it is thrown away
    return reference


def collect(process: ProcessRef) -> None:
    """Take a disowned child that ended out of the list of processes, where it was this process that started it."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether ``condition`` comes true within ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL)
    return True


def last_lines(log: Path, *, since: int = 0, count: int = 5) -> str:
    """The last lines of a log, joined by `` | ``, from byte ``since`` on."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(since, log.stat().st_size - 8192))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-count:])


def _birth(pid: int) -> str | None:
    if not SIGNALS_ORPHANS:
        return _birth_by_clock(pid)
    # Not psutil's create_time: that moves when the system's clock is set.
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, ticks_after_boot = fields[0], fields[19]
    return None if state in "ZX" else f"{_BOOT_ID.read_text().strip()}/{ticks_after_boot}"


def _birth_by_clock(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


def _members(session: int) -> list[int]:
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == session:
                found.append(pid)
    return found


def _orphan_signal(number: signal.Signals | None) -> Callable[[], None] | None:
    """What the child does between fork and exec: one system call and a look at its parent."""
    if number is None or not SIGNALS_ORPHANS:
        return None
    parent = os.getpid()

    def ask_kernel() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:
            os._exit(1)

    return ask_kernel
