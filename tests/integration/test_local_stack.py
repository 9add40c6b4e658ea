"""The whole embedded stack: up, down, crashes, and what is left afterwards (nothing).

The processes are stand-ins of a few lines; everything else, Redis and Postgres too, is what users run.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from deploy.local.detached import spawn_detached
from deploy.local.processes import ProcessRef, collect, wait_until
from deploy.local.service import recorded
from deploy.local.stack import Stack, down, up
from deploy.local.state import StackState, read_state
from pipeline.errors import Conflict, InternalFault, TimedOut

ROOT = Path(__file__).resolve().parents[2]

PROCFILE = "ask: python program.py\nbeat: python program.py\n"
PROGRAM = """\
import os, signal, sys, time
def note(number, frame):
    print("got", signal.Signals(number).name, flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, note)
signal.signal(signal.SIGINT, note)
print(os.environ["PROCESS_NAME"], os.environ["REDIS_URL"], os.environ["DATABASE_URL"], flush=True)
while True:
    time.sleep(0.05)
"""
DAEMON = """\
import os, sys
from pathlib import Path
from deploy.local.stack import up
home = Path(os.environ["CELERIAC_HOME"])
stack = up(home, workers=1, environment=os.environ, prepare=lambda e: None, ready=lambda e: True,
           on_event=lambda text: print(text, flush=True), procfile=home.parent / "Procfile", grace=5)
stack.wait()
"""


@pytest.fixture
def project(services_folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A project of two kinds of process; whatever a test leaves running in it is stopped."""
    folder = services_folder / f"stack{abs(hash(request.node.name)) % 10**6}"
    folder.mkdir(mode=0o711)
    (folder / "Procfile").write_text(PROCFILE)
    (folder / "program.py").write_text(PROGRAM)
    (folder / "daemon.py").write_text(DAEMON)
    yield folder
    down(folder / "home", on_event=print, grace=5)
    shutil.rmtree(folder)


@pytest.fixture
def home(project: Path) -> Path:
    return project / "home"


@pytest.fixture
def borrowed(redis_url: str, postgres_url: str) -> dict[str, str]:
    """An environment with services of the session: quicker where the test is about processes."""
    return {**os.environ, "REDIS_URL": redis_url, "DATABASE_URL": postgres_url}


def bring_up(home: Path, environment: Mapping[str, str], workers: int = 1) -> Stack:
    return up(
        home,
        workers=workers,
        environment=environment,
        prepare=lambda final: None,
        ready=lambda final: all(log.stat().st_size for log in (home / "logs").glob("*-*.log")),
        on_event=print,
        procfile=home.parent / "Procfile",
        ready_within=60,
        grace=5,
    )


def start_daemon(home: Path, environment: Mapping[str, str]) -> StackState:
    return spawn_detached(
        home,
        1,
        command=[sys.executable, str(home.parent / "daemon.py")],
        environment={**environment, "PYTHONPATH": str(ROOT)},
        cwd=home.parent,
    )


def everything_of(state: StackState) -> list[ProcessRef]:
    return [state.supervisor, *state.processes.values(), *(service.process for service in state.services)]


def crash(state: StackState) -> None:
    """Kill the supervisor with SIGKILL. It is a child of this process, which has to collect it."""
    os.kill(state.supervisor.pid, signal.SIGKILL)
    assert state.supervisor.wait(5)
    collect(state.supervisor)


class TestUp:
    def test_services_then_preparation_then_processes(self, home: Path) -> None:
        seen: dict[str, str] = {}

        def prepare(environment: Mapping[str, str]) -> None:
            with psycopg.connect(environment["DATABASE_URL"]) as connection:
                connection.execute("CREATE TABLE made_by_prepare ()")
            with redis.Redis.from_url(environment["REDIS_URL"]) as client:
                client.ping()
            assert not (home / "logs" / "ask-1.log").exists()
            seen.update(environment)

        stack = up(
            home,
            workers=2,
            environment=os.environ,
            prepare=prepare,
            ready=lambda final: all(log.stat().st_size for log in (home / "logs").glob("*-*.log")),
            on_event=print,
            procfile=home.parent / "Procfile",
        )
        state = read_state(home)
        stack.stop()
        assert state is not None
        assert state.ready
        assert sorted(state.processes) == ["ask-1", "ask-2", "beat-1"]
        urls = [state.environment["REDIS_URL"], state.environment["DATABASE_URL"]]
        assert (home / "logs" / "ask-2.log").read_text().split()[:3] == ["ask-2", *urls]
        assert seen["CELERIAC_HOME"] == str(home)
        assert [seen["REDIS_URL"], seen["DATABASE_URL"]] == urls
        assert not any(process.alive() for process in everything_of(state) if process.pid != os.getpid())
        assert read_state(home) is None

    def test_a_service_that_is_given_is_used_and_not_started(self, home: Path, borrowed: dict[str, str]) -> None:
        stack = bring_up(home, borrowed)
        assert stack.state.services == ()
        assert (home / "logs" / "ask-1.log").read_text().split()[1] == borrowed["REDIS_URL"]
        stack.stop()
        with redis.Redis.from_url(borrowed["REDIS_URL"]) as client:
            assert client.ping()

    def test_up_while_up_is_refused_and_disturbs_nothing(self, home: Path, borrowed: dict[str, str]) -> None:
        stack = bring_up(home, borrowed)
        with pytest.raises(Conflict, match="up already"):
            bring_up(home, borrowed)
        assert all(process.alive() for process in stack.state.processes.values())
        stack.stop()

    def test_of_two_at_the_same_time_one_wins(self, home: Path, borrowed: dict[str, str]) -> None:
        command = [sys.executable, str(home.parent / "daemon.py")]
        environment = {**borrowed, "PYTHONPATH": str(ROOT), "CELERIAC_HOME": str(home)}
        both = [
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for _ in range(2)
        ]
        assert wait_until(lambda: any(process.poll() is not None for process in both), 20)
        (loser,) = [process for process in both if process.poll() is not None]
        (winner,) = [process for process in both if process is not loser]
        assert b"Conflict" in loser.communicate()[1]
        assert wait_until(lambda: (state := read_state(home)) is not None and state.ready, 20)
        state = read_state(home)
        assert state is not None
        assert state.supervisor.pid == winner.pid
        winner.terminate()
        assert winner.wait(20) == 0
        assert winner.stderr is not None
        winner.stderr.close()

    def test_the_login_of_flower_is_in_the_state_file_and_on_no_command_line(
        self, home: Path, borrowed: dict[str, str]
    ) -> None:
        stack = bring_up(home, borrowed)
        access = stack.state.flower
        assert access is not None
        assert stack.environment["FLOWER_BASIC_AUTH"] == f"celeriac:{access.password}"
        assert access.url == f"http://127.0.0.1:{stack.environment['FLOWER_PORT']}"
        assert stat.S_IMODE((home / "stack.json").stat().st_mode) == 0o600
        assert access.password in (home / "stack.json").read_text()
        for process in stack.state.processes.values():
            assert access.password not in " ".join(psutil.Process(process.pid).cmdline())
        stack.stop()

    def test_a_process_that_keeps_dying_fails_the_start_with_its_last_words(
        self, home: Path, borrowed: dict[str, str]
    ) -> None:
        (home.parent / "program.py").write_text("raise SystemExit('no module named tasks')")
        with pytest.raises(InternalFault, match="no module named tasks"):
            up(
                home,
                workers=1,
                environment=borrowed,
                prepare=lambda final: None,
                ready=lambda final: False,
                on_event=print,
                procfile=home.parent / "Procfile",
            )
        assert read_state(home) is None

    def test_what_fails_half_way_is_taken_down_again(self, home: Path) -> None:
        def prepare(environment: Mapping[str, str]) -> None:
            started.append(read_state(home))
            raise InternalFault("The migration failed.")

        started: list[StackState | None] = []
        with pytest.raises(InternalFault, match="migration"):
            up(
                home,
                workers=1,
                environment=os.environ,
                prepare=prepare,
                ready=lambda final: True,
                on_event=print,
                procfile=home.parent / "Procfile",
            )
        (state,) = started
        assert state is not None
        assert len(state.services) == 2
        assert not any(service.process.alive() for service in state.services)
        assert read_state(home) is None

    def test_not_being_ready_in_time_is_an_error_that_names_the_logs(
        self, home: Path, borrowed: dict[str, str]
    ) -> None:
        with pytest.raises(TimedOut, match="logs"):
            up(
                home,
                workers=1,
                environment=borrowed,
                prepare=lambda final: None,
                ready=lambda final: False,
                on_event=print,
                procfile=home.parent / "Procfile",
                ready_within=0.2,
            )


class TestRunning:
    def test_a_service_that_dies_comes_back_at_the_same_address_with_its_data(self, home: Path) -> None:
        state = start_daemon(home, os.environ)
        with redis.Redis.from_url(state.environment["REDIS_URL"]) as client:
            client.set("kept", "yes")
            assert wait_until(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0, 5)
        for service in state.services:
            os.kill(service.process.pid, signal.SIGKILL)

        def revived() -> bool:
            now = read_state(home)
            return now is not None and {s.process for s in now.services}.isdisjoint(s.process for s in state.services)

        assert wait_until(revived, 20)
        now = read_state(home)
        assert now is not None
        assert now.environment == state.environment
        with redis.Redis.from_url(now.environment["REDIS_URL"]) as client:
            assert client.get("kept") == b"yes"
        with psycopg.connect(now.environment["DATABASE_URL"]) as connection:
            connection.execute("SELECT 1")

    def test_ctrl_c_in_the_terminal_reaches_only_the_supervisor(self, home: Path, borrowed: dict[str, str]) -> None:
        """Which tells each process once, with SIGTERM; two signals would lose running tasks."""
        state = start_daemon(home, borrowed)
        assert wait_until(lambda: all((home / "logs" / f"{name}.log").read_text() for name in state.processes), 10)
        os.killpg(state.supervisor.pid, signal.SIGINT)
        assert state.supervisor.wait(20)
        for name in state.processes:
            assert (home / "logs" / f"{name}.log").read_text().split("\n")[1:] == ["got SIGTERM", ""]
        assert read_state(home) is None


class TestDown:
    def test_it_stops_everything_and_a_second_time_there_is_nothing(self, home: Path) -> None:
        state = start_daemon(home, os.environ)
        assert all(process.alive() for process in everything_of(state))
        assert down(home, on_event=print)
        assert not any(process.alive() for process in everything_of(state))
        assert not down(home, on_event=print)

    def test_where_nothing_ever_was_there_is_nothing_to_do(self, home: Path) -> None:
        assert not down(home, on_event=print)
        assert not home.exists()

    def test_it_clears_away_what_a_killed_supervisor_left(self, home: Path) -> None:
        state = start_daemon(home, os.environ)
        crash(state)
        left = read_state(home)
        assert left is not None
        assert not left.running
        assert all(service.process.alive() for service in state.services)
        assert down(home, on_event=print)
        assert not any(process.alive() for process in everything_of(state))
        assert read_state(home) is None
        assert recorded(home / "redis") is None

    def test_a_daemon_that_fails_tells_its_last_lines(self, home: Path, borrowed: dict[str, str]) -> None:
        (home.parent / "daemon.py").write_text("raise SystemExit('DATABASE_URL makes no sense')")
        with pytest.raises(InternalFault, match="DATABASE_URL makes no sense"):
            start_daemon(home, borrowed)


def test_up_after_a_crash_starts_afresh_on_the_same_data(home: Path) -> None:
    before = start_daemon(home, os.environ)
    with psycopg.connect(before.environment["DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE kept ()")
    crash(before)
    after = start_daemon(home, os.environ)
    assert not any(process.alive() for process in everything_of(before))
    with psycopg.connect(after.environment["DATABASE_URL"]) as connection:
        connection.execute("SELECT FROM kept")
    assert down(home, on_event=print)
