"""Processes are known by pid and birth, and only they are signalled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.processes import ProcessRef, last_lines, spawn, wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (tmp_path / "log").open("wb") as output:
        child = spawn(SLEEP, output=output, cwd=tmp_path, environment=os.environ)
    yield child
    child.kill()
    child.wait()


def test_a_process_is_alive_until_it_ends_even_before_its_parent_notices(sleeper: subprocess.Popen[bytes]) -> None:
    reference = ProcessRef.of(sleeper.pid)
    assert reference.alive()
    os.kill(sleeper.pid, signal.SIGKILL)
    assert reference.wait(5)
    assert sleeper.returncode is None  # a zombie: nobody has collected it


def test_another_process_with_the_same_pid_is_never_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    earlier_owner = ProcessRef(pid=sleeper.pid, birth="long ago")
    assert not earlier_owner.alive()
    earlier_owner.send(signal.SIGKILL)
    earlier_owner.kill_session()
    assert sleeper.poll() is None
    assert ProcessRef.of(sleeper.pid).alive()


def test_a_process_leads_a_session_of_its_own(sleeper: subprocess.Popen[bytes]) -> None:
    """So that neither Ctrl-C nor the end of the terminal reaches it."""
    assert os.getsid(sleeper.pid) == sleeper.pid != os.getsid(0)


def test_killing_a_session_reaches_children_whose_leader_is_gone(tmp_path: Path) -> None:
    code = f"import subprocess; print(subprocess.Popen({SLEEP!r}).pid, flush=True)"
    with (tmp_path / "log").open("wb") as output:
        leader = spawn([sys.executable, "-c", code], output=output, cwd=tmp_path, environment=os.environ)
    reference = ProcessRef.of(leader.pid)
    leader.wait(10)
    orphan = ProcessRef.of(int((tmp_path / "log").read_text()))
    assert orphan.alive()
    reference.kill_session()
    assert orphan.wait(5)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals orphans")
def test_an_orphan_gets_the_signal_it_was_started_with(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time; from pathlib import Path; from deploy.local.processes import spawn\n"
        f"child = spawn({SLEEP!r}, output=sys.stdout.buffer, cwd=Path('/'), environment=os.environ,"
        " when_orphaned=signal.SIGTERM)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=with_project_on_path())
    assert parent.stdout is not None
    with parent, parent.stdout:
        orphan = ProcessRef.of(int(parent.stdout.readline()))
        assert orphan.alive()
        parent.kill()
        assert orphan.wait(5)


def test_a_condition_that_never_comes_true_ends_the_wait() -> None:
    assert not wait_until(lambda: False, 0.1)
    assert wait_until(lambda: True, 0)


def test_the_last_lines_of_a_log_start_where_the_run_started(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("of an earlier run\n")
    since = log.stat().st_size
    with log.open("a") as stream:
        stream.write("one\n\ntwo\nthree\n")
    assert last_lines(log, since=since) == "one | two | three"
    assert last_lines(log, since=since, count=1) == "three"
    assert last_lines(tmp_path / "none.log") == ""


def with_project_on_path() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[4])}
