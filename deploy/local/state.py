"""What is known of an embedded stack from outside: ``stack.json``, and the lock that only one can hold."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy.local.processes import ProcessRef
from deploy.local.service import ServiceRecord
from pipeline.errors import BadSettings, Conflict

Phase = Literal["starting", "ready", "stopping"]

_STATE = "stack.json"
_LOCK = "stack.lock"
# A folder of another name than .celeriac is not hidden: its passwords and logs would be found by a question.
_IGNORE_ALL = "# Nothing in here is a document.\n*\n"
_URL_VARIABLES = {"redis": "REDIS_URL", "postgres": "DATABASE_URL"}


class FlowerAccess(BaseModel):
    """Where Flower is, and who may look; ``password`` is empty where the caller's environment sets it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    user: str = ""
    password: str = Field(default="", repr=False)


class StackState(BaseModel):
    """A stack as it was when something last changed; services that aren't ours are not in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: Phase
    supervisor: ProcessRef
    started_at: datetime
    workers: int
    services: tuple[ServiceRecord, ...] = ()
    processes: dict[str, ProcessRef] = {}
    flower: FlowerAccess | None = None

    @property
    def running(self) -> bool:
        """Whether its supervisor lives; if not, the rest is what a crash left behind."""
        return self.supervisor.alive()

    @property
    def ready(self) -> bool:
        """Whether it runs and takes work."""
        return self.phase == "ready" and self.running

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which settings find its services."""
        return {_URL_VARIABLES[service.name]: service.url for service in self.services}


def read_state(home: Path) -> StackState | None:
    """The state of the stack in ``home``; None where none is up. Raises BadSettings for a damaged file."""
    path = home / _STATE
    try:
        return StackState.model_validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise BadSettings(f"{path} is damaged or of another version.", "Remove it, then try again.") from None


def write_state(home: Path, state: StackState) -> None:
    """Replace the state at one stroke; nobody but the owner may read it, for it holds a password."""
    descriptor, draft = tempfile.mkstemp(prefix=f".{_STATE}-", dir=home)  # created with mode 0600
    with os.fdopen(descriptor, "w") as stream:
        stream.write(state.model_dump_json(indent=2))
    os.replace(draft, home / _STATE)


def remove_state(home: Path) -> None:
    """The stack is down."""
    (home / _STATE).unlink(missing_ok=True)


@contextlib.contextmanager
def stack_lock(home: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the stack in ``home``; raises Conflict where somebody else does for ``wait`` seconds more.

    The kernel lets go of it when its holder dies, however it dies.
    """
    home.mkdir(parents=True, exist_ok=True)
    if not (home / ".ragignore").exists():
        (home / ".ragignore").write_text(_IGNORE_ALL, encoding="utf-8")
    with (home / _LOCK).open("a") as stream:
        end = time.monotonic() + wait
        while not _locked(stream.fileno()):
            if time.monotonic() >= end:
                raise _already_up(home)
            time.sleep(0.05)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _already_up(home: Path) -> Conflict:
    state = read_state(home)
    if state is None or state.phase != "ready":
        return Conflict(f"The stack in {home} is being started or stopped.", "Wait a moment, then try again.")
    since = f"{state.started_at:%Y-%m-%d %H:%M:%S}"
    return Conflict(f"The stack in {home} is up already (since {since}).", "Stop it with `manage.py down` first.")
