"""What a stack leaves behind when its supervisor is killed, and how it is cleared away."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from deploy.local.processes import SIGNALS_ORPHANS, ProcessRef, wait_until
from deploy.local.service import recorded
from deploy.local.state import read_state, remove_state

SERVICES = ("redis", "postgres")


def clear_leftovers(home: Path, *, on_event: Callable[[str], None], grace: float) -> None:
    """End what is recorded in ``home`` and still there: processes first, then the services they use.

    The caller holds the stack's lock, so nobody is responsible for them any more.
    """
    state = read_state(home)
    if state is not None:
        _end([process for process in state.processes.values() if process.session()], on_event, grace)
    for name in SERVICES:
        service = recorded(home / name)
        if service is not None:
            if service.alive():
                on_event(f"Stopping the {name} that an earlier run left behind.")
            service.stop()
    remove_state(home)


def _end(left: list[ProcessRef], on_event: Callable[[str], None], grace: float) -> None:
    if not left:
        return
    on_event(f"Ending {len(left)} processes that an earlier run left behind.")
    if not SIGNALS_ORPHANS:  # where it does, each got its one SIGTERM when the supervisor died
        for process in left:
            process.send(signal.SIGTERM)
    wait_until(lambda: not any(process.alive() for process in left), grace)
    for process in left:
        process.kill_session()
        process.wait(grace)
