"""Processes are kept running, told once to stop, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.processes import ProcessRef, wait_until
from deploy.local.procfile import ProcessSpec
from deploy.local.supervisor import Supervisor, pause_before_start

PROGRAM = """\
import signal, sys, time
def note(number, frame):
    print("got", signal.Signals(number).name, flush=True)
    if sys.argv[1] == "obedient":
        time.sleep(0.3)  # a task that finishes first: time for a second signal to arrive
        sys.exit(0)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, note)
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""

Start = Callable[..., Supervisor]


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def start(tmp_path: Path, events: list[str]) -> Iterator[Start]:
    """Runs shell commands by name and waits until each has written its first line."""
    (tmp_path / "program.py").write_text(PROGRAM)
    supervisors: list[Supervisor] = []

    def start(**commands: str) -> Supervisor:
        specs = [ProcessSpec(name, command) for name, command in commands.items()]
        environment = {**os.environ, "PYTHON": sys.executable}
        supervisor = Supervisor(
            specs, logs=tmp_path / "logs", environment=environment, on_event=events.append, project=tmp_path
        )
        supervisors.append(supervisor)
        supervisor.poll()
        assert wait_until(lambda: all(log_of(tmp_path, name).read_text() for name in commands), 10)
        return supervisor

    yield start
    for supervisor in supervisors:
        supervisor.stop(grace=0)


def log_of(folder: Path, name: str) -> Path:
    return folder / "logs" / f"{name}.log"


def test_a_process_runs_in_the_project_and_knows_its_name(start: Start, tmp_path: Path) -> None:
    start(one='sh -c "echo $PROCESS_NAME ${MISSING:-default}; pwd; sleep 60"')
    assert wait_until(lambda: len(log_of(tmp_path, "one").read_text().splitlines()) == 2, 5)
    assert log_of(tmp_path, "one").read_text().split() == ["one", "default", str(tmp_path)]


def test_stopping_sends_sigterm_exactly_once_and_waits(start: Start, tmp_path: Path, events: list[str]) -> None:
    """A second signal would make Celery drop what a gevent worker holds."""
    supervisor = start(one="$PYTHON program.py obedient", two="$PYTHON program.py obedient")
    supervisor.stop(grace=10)
    supervisor.stop(grace=10)
    for name in ("one", "two"):
        assert log_of(tmp_path, name).read_text().split("\n") == ["ready", "got SIGTERM", ""]
    assert events == []


def test_what_ignores_sigterm_is_killed_after_the_grace_period(start: Start, events: list[str]) -> None:
    supervisor = start(stubborn="$PYTHON program.py deaf")
    process = supervisor.running["stubborn"]
    supervisor.stop(grace=0.3)
    assert not process.alive()
    assert events == ["Killing what did not end within 0.3 s: stubborn."]
    assert supervisor.running == {}


def test_a_process_that_dies_is_started_again_after_a_pause(start: Start, events: list[str]) -> None:
    supervisor = start(one="$PYTHON program.py obedient")
    first = supervisor.running["one"]
    os.kill(first.pid, signal.SIGKILL)
    assert wait_until(supervisor.poll, 5)
    assert events == ["one ended with status -9; it starts again in 0.5 s."]
    assert supervisor.running == {}
    assert wait_until(supervisor.poll, 5)
    assert supervisor.running["one"] != first
    assert supervisor.running["one"].alive()


def test_a_process_that_dies_takes_its_children_along(start: Start, tmp_path: Path) -> None:
    """A crashed prefork worker must not leave pool members that write beside its successor."""
    supervisor = start(pool="sh -c 'sleep 60 & echo $!; wait'")
    member = ProcessRef.of(int(log_of(tmp_path, "pool").read_text()))
    os.kill(supervisor.running["pool"].pid, signal.SIGKILL)
    assert wait_until(supervisor.poll, 5)
    assert member.wait(5)


def test_the_pause_doubles_up_to_ten_seconds() -> None:
    assert [pause_before_start(failures) for failures in range(1, 8)] == [0.5, 1, 2, 4, 8, 10, 10]
    assert pause_before_start(10_000) == 10


def test_failures_in_a_row_are_counted_with_what_the_process_said_last(start: Start, events: list[str]) -> None:
    supervisor = start(fine="$PYTHON program.py obedient", broken='sh -c "echo no such module; exit 3"')
    assert wait_until(lambda: supervisor.poll() and len(events) == 2, 10)
    assert supervisor.worst == (2, "broken: no such module")
    assert [event.rpartition(" in ")[2] for event in events] == ["0.5 s.", "1 s."]
