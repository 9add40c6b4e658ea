"""A stack that runs in a process of its own, as a daemon."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.local.processes import disown, last_lines, spawn, wait_until
from deploy.local.procfile import PROJECT
from deploy.local.stack import READY_WITHIN, SERVICES_STOP_WITHIN
from deploy.local.state import StackState, read_state, stack_lock
from deploy.local.supervisor import GRACE
from pipeline.errors import InternalFault, TimedOut

_SERVICES_START_WITHIN = 60.0


def spawn_detached(
    home: Path,
    workers: int,
    *,
    environment: Mapping[str, str] = os.environ,
    command: Sequence[str] = (sys.executable, "manage.py", "up"),
    cwd: Path = PROJECT,
    within: float = READY_WITHIN + _SERVICES_START_WITHIN,
) -> StackState:
    """Run ``command --workers N``, which calls ``up`` and waits, as a daemon; return once its stack is ready.

    It is told ``home`` by CELERIAC_HOME. Its output goes to ``logs/supervisor.log``. Raises Conflict where the
    stack is up, InternalFault with the last lines of that log where it ends early, TimedOut where it takes too
    long; it is stopped then.
    """
    home = home.resolve()
    with stack_lock(home):  # for the clear message; the daemon takes it again
        pass
    log = home / "logs" / "supervisor.log"
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log.open("ab") as output:
        since = output.tell()
        child = spawn(
            [*command, "--workers", str(workers)],
            output=output,
            cwd=cwd,
            environment={**environment, "CELERIAC_HOME": str(home)},
        )
    state = _ready_state(home, child, within)
    if state is not None:
        disown(child)
        return state
    if child.returncode is None:
        _stop_child(child)
        raise TimedOut(f"The stack was not ready within {within:g} s.", f"See {log}.")
    raise InternalFault(f"The stack did not start: {last_lines(log, since=since)}", f"See {log}.")


def _ready_state(home: Path, child: subprocess.Popen[bytes], within: float) -> StackState | None:
    def ready() -> bool:
        state = read_state(home)
        return state is not None and state.ready and state.supervisor.pid == child.pid

    try:
        wait_until(lambda: child.poll() is not None or ready(), within)
    except KeyboardInterrupt:
        _stop_child(child)
        raise
    return read_state(home) if child.poll() is None and ready() else None


def _stop_child(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE + SERVICES_STOP_WITHIN)
