"""The embedded stack: services, then the caller's preparation, then the processes; and down again."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.leftovers import SERVICES, clear_leftovers
from deploy.local.postgres import start_postgres
from deploy.local.processes import ProcessRef, collect
from deploy.local.procfile import PROCFILE, processes, read_procfile
from deploy.local.redis import HOST, free_port, start_redis
from deploy.local.service import STOP_WITHIN, RunningService, recorded
from deploy.local.state import FlowerAccess, Phase, StackState, read_state, remove_state, stack_lock, write_state
from deploy.local.stop_signals import StopSignals
from deploy.local.supervisor import GRACE, Supervisor
from pipeline.errors import Cancelled, InternalFault, TimedOut

READY_WITHIN = 90.0
SERVICES_STOP_WITHIN = 2 * STOP_WITHIN
_LOCK_WITHIN = 5.0
_TICK = 0.1
_HOPELESS = 3
_FLOWER_USER = "celeriac"
_FLOWER_LOGINS = ("FLOWER_BASIC_AUTH", "FLOWER_AUTH")

OnEvent = Callable[[str], None]


def _silent(_event: str) -> None:
    """Hear of nothing."""


def up(
    home: Path,
    *,
    workers: int,
    environment: Mapping[str, str],
    prepare: Callable[[Mapping[str, str]], None],
    ready: Callable[[Mapping[str, str]], bool],
    on_event: OnEvent,
    procfile: Path = PROCFILE,
    ready_within: float = READY_WITHIN,
    grace: float = GRACE,
) -> Stack:
    """Start everything in ``home`` and return once it takes work; the caller then owes a ``wait`` or ``stop``.

    A service whose URL is in ``environment`` is used and not started. ``prepare`` (migrations) is called
    with the final environment once the services answer, ``ready`` with the same until it says yes.
    Whatever goes wrong on the way, all that was started is stopped again. To be called in the main thread.

    Raises Conflict where the stack is up, Cancelled when asked to stop before it was ready, InternalFault
    where a process dies again and again, TimedOut where it isn't ready in time.
    """
    home = home.resolve()
    specs = processes(read_procfile(procfile), workers)
    with contextlib.ExitStack() as exits:
        exits.enter_context(stack_lock(home))
        signals = exits.enter_context(StopSignals())
        clear_leftovers(home, on_event=on_event, grace=grace)
        stack = Stack(home, workers, environment, signals, on_event, exits)
        stack.start_services()
        prepare(stack.environment)
        supervisor = Supervisor(
            specs, logs=home / "logs", environment=stack.environment, on_event=on_event, project=procfile.parent
        )
        stack.run(supervisor, grace)
        stack.await_ready(ready, ready_within)
        stack.exits = exits.pop_all()
    return stack


def down(home: Path, *, on_event: OnEvent = _silent, grace: float = GRACE) -> bool:
    """Stop the stack in ``home`` and clear away what a crash may have left; False where there was nothing.

    Returns once every recorded process is gone.
    """
    home = home.resolve()
    state = read_state(home)
    if state is None and not any(recorded(home / name) for name in SERVICES):
        return False
    if state is not None and state.running:
        on_event("Stopping the stack: running tasks may finish first.")
        state.supervisor.send(signal.SIGTERM)
        if not state.supervisor.wait(grace + SERVICES_STOP_WITHIN):
            on_event("The supervisor does not answer; killing it.")
            state.supervisor.send(signal.SIGKILL)
    with stack_lock(home, wait=_LOCK_WITHIN):
        clear_leftovers(home, on_event=on_event, grace=grace)
    return True


class Stack:
    """A stack that this process has started and answers for; made by :func:`up`."""

    def __init__(
        self,
        home: Path,
        workers: int,
        environment: Mapping[str, str],
        signals: StopSignals,
        on_event: OnEvent,
        exits: contextlib.ExitStack,
    ) -> None:
        """``exits`` collects what has to be undone, in reverse order."""
        self.exits = exits
        self._home = home
        self._signals = signals
        self._on_event = on_event
        self._services: dict[str, RunningService] = {}
        self._supervisor: Supervisor | None = None
        self.state = StackState(
            phase="starting",
            supervisor=ProcessRef.of(os.getpid()),
            started_at=datetime.now(UTC),
            workers=workers,
            flower=_flower_access(environment),
        )
        self.environment = {**_own_environment(home, environment), **_flower_environment(self.state.flower)}
        exits.callback(remove_state, home)
        self._record("starting")

    def start_services(self) -> None:
        """Start those whose URL is not in the environment yet, and put it there."""
        for name, variable, start in (
            ("redis", "REDIS_URL", start_redis),
            ("postgres", "DATABASE_URL", start_postgres),
        ):
            self._stop_where_asked()
            if self.environment.get(variable):
                continue
            service = start(self._home / name)
            self._services[name] = service
            self.exits.callback(self._stop_service, name)
            self.environment[variable] = service.url
            self._on_event(f"{name.capitalize()} answers.")
            self._record("starting")

    def run(self, supervisor: Supervisor, grace: float) -> None:
        """Start the processes; from now on they are tended."""
        self._stop_where_asked()
        self._supervisor = supervisor
        self.exits.callback(supervisor.stop, grace)
        self.exits.callback(self._record, "stopping")
        self._tend()

    def await_ready(self, ready: Callable[[Mapping[str, str]], bool], seconds: float) -> None:
        """Tend the processes until ``ready`` says yes."""
        end = time.monotonic() + seconds
        while not ready(self.environment):
            self._stop_where_asked()
            self._tend()
            self._give_up_where_hopeless()
            if time.monotonic() >= end:
                raise TimedOut(f"The workers were not ready within {seconds:g} s.", f"See {self._home / 'logs'}.")
            time.sleep(_TICK)
        self._record("ready")

    def wait(self) -> None:
        """Tend everything until SIGTERM, SIGINT or SIGHUP, then stop it in good order."""
        try:
            while not self._signals.requested:
                self._tend()
                time.sleep(_TICK)
        finally:
            self.stop()

    def stop(self) -> None:
        """End the processes, then the services, and give up the lock; a second time does nothing."""
        self.exits.close()

    def _tend(self) -> None:
        dead = [name for name, service in self._services.items() if not service.alive()]
        for name in dead:
            self._revive(name)
        changed = self._supervisor is not None and self._supervisor.poll()
        if changed or dead:
            self._record(self.state.phase)

    def _revive(self, name: str) -> None:
        """Start a service that died again, at the same address: the workers hold on to it."""
        dead = self._services[name]
        self._on_event(f"{name.capitalize()} died; starting it again.")
        collect(dead.record.process)
        if dead.record.name == "redis":
            self._services[name] = start_redis(dead.folder, port=urlsplit(dead.url).port)
        else:
            self._services[name] = start_postgres(dead.folder, sockets=dead.record.socket_folder)

    def _stop_service(self, name: str) -> None:
        self._services[name].stop()

    def _stop_where_asked(self) -> None:
        if self._signals.requested:
            raise Cancelled("Stopped before it was ready.")

    def _give_up_where_hopeless(self) -> None:
        failures, last_words = (0, "") if self._supervisor is None else self._supervisor.worst
        if failures >= _HOPELESS:
            raise InternalFault(f"A process dies again and again: {last_words}", f"See {self._home / 'logs'}.")

    def _record(self, phase: Phase) -> None:
        self.state = self.state.model_copy(
            update={
                "phase": phase,
                "services": tuple(service.record for service in self._services.values()),
                "processes": {} if self._supervisor is None else self._supervisor.running,
            }
        )
        write_state(self._home, self.state)


def _own_environment(home: Path, environment: Mapping[str, str]) -> dict[str, str]:
    programs = Path(sys.executable).parent  # `celery` is found there also where no virtual environment is active
    path = os.pathsep.join([str(programs), environment.get("PATH", os.defpath)])
    return {**environment, "CELERIAC_HOME": str(home), "PATH": path}


def _flower_access(environment: Mapping[str, str]) -> FlowerAccess:
    host = environment.get("FLOWER_ADDRESS") or HOST
    port = environment.get("FLOWER_PORT") or free_port()
    url = f"http://{host}:{port}"
    if any(environment.get(name) for name in _FLOWER_LOGINS):
        return FlowerAccess(url=url)
    return FlowerAccess(url=url, user=_FLOWER_USER, password=secrets.token_urlsafe(24))


def _flower_environment(access: FlowerAccess | None) -> dict[str, str]:
    """Through the environment, never on a command line: every user of the machine can read those."""
    if access is None:
        return {}
    port = {"FLOWER_PORT": str(urlsplit(access.url).port)}
    return {**port, "FLOWER_BASIC_AUTH": f"{access.user}:{access.password}"} if access.password else port
