"""The embedded Redis and Postgres: they keep data, leave no process, and say why they don't start."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
import redis
import sqlalchemy

from deploy.local import accounts
from deploy.local.postgres import start_postgres
from deploy.local.processes import wait_until
from deploy.local.redis import start_redis
from deploy.local.service import RunningService, recorded
from pipeline.errors import Conflict, InternalFault

Start = Callable[[Path], RunningService]


@pytest.fixture
def folder(services_folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of the test's own that is stopped and removed whatever happens."""
    folder = services_folder / f"t{abs(hash(request.node.name)) % 10**8}"
    yield folder
    service = recorded(folder)
    if service is not None:
        service.stop()
    if (folder / "data").is_symlink():
        shutil.rmtree((folder / "data").resolve())
    shutil.rmtree(folder, ignore_errors=True)


def write(service: RunningService) -> None:
    if service.record.name == "redis":
        with redis.Redis.from_url(service.url) as client:
            client.set("kept", "yes")
    else:
        with psycopg.connect(service.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 'yes' AS value")


def read(service: RunningService) -> str:
    if service.record.name == "redis":
        with redis.Redis.from_url(service.url, decode_responses=True) as client:
            return str(client.get("kept"))
    with psycopg.connect(service.url) as connection:
        row = connection.execute("SELECT value FROM kept").fetchone()
        return "" if row is None else str(row[0])


def processes_in(folder: Path) -> list[psutil.Process]:
    """Processes whose working directory is in ``folder``, as those of both servers are."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.mark.parametrize("start", [start_redis, start_postgres])
class TestBoth:
    def test_data_survive_a_stop_and_no_process_does(self, start: Start, folder: Path) -> None:
        service = start(folder)
        write(service)
        assert processes_in(folder)
        service.stop()
        assert not service.alive()
        assert processes_in(folder) == []
        assert recorded(folder) is None
        assert read(start(folder)) == "yes"

    def test_data_survive_a_kill(self, start: Start, folder: Path) -> None:
        service = start(folder)
        write(service)
        if service.record.name == "redis":
            with redis.Redis.from_url(service.url) as client:
                assert wait_until(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0, 5)
        os.kill(service.record.process.pid, signal.SIGKILL)
        assert service.record.process.wait(5)
        assert wait_until(lambda: processes_in(folder) == [], 10)
        assert read(start(folder)) == "yes"

    def test_a_second_one_in_the_same_folder_is_refused(self, start: Start, folder: Path) -> None:
        service = start(folder)
        with pytest.raises(Conflict, match=str(service.record.process.pid)):
            start(folder)
        assert service.alive()

    def test_it_can_be_stopped_by_a_process_that_did_not_start_it(self, start: Start, folder: Path) -> None:
        service = start(folder)
        found = recorded(folder)
        assert found is not None
        assert found.record == service.record
        found.stop()
        assert not service.alive()
        service.stop()


class TestRedis:
    def test_it_never_evicts_and_keeps_a_log_of_every_write(self, redis_url: str) -> None:
        with redis.Redis.from_url(redis_url, decode_responses=True) as client:
            settings = client.config_get("*")
        wanted = {"maxmemory-policy": "noeviction", "appendonly": "yes", "protected-mode": "yes", "bind": "127.0.0.1"}
        assert {name: settings[name] for name in wanted} == wanted

    def test_it_comes_back_at_the_port_it_is_told(self, folder: Path) -> None:
        first = start_redis(folder)
        first.stop()
        assert start_redis(folder, port=urlsplit(first.url).port).url == first.url

    def test_a_start_that_fails_shows_the_end_of_the_log(self, folder: Path, redis_url: str) -> None:
        taken = urlsplit(redis_url).port
        with pytest.raises(InternalFault, match="Address already in use"):
            start_redis(folder, port=taken)
        assert processes_in(folder) == []


class TestPostgres:
    def test_text_search_does_not_take_quotation_marks_for_letters(self, postgres_url: str) -> None:
        """Under the C character type, the default where no language is set, it does."""
        with psycopg.connect(postgres_url) as connection:
            row = connection.execute("SELECT to_tsvector('english', '“École — curly” quotes')::text").fetchone()
        assert row == ("'cur':2 'quot':3 'école':1",)

    def test_sqlalchemy_understands_the_url(self, postgres_url: str) -> None:
        engine = sqlalchemy.create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:", 1))
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text("SELECT current_database()")).scalar() == "celeriac"
        engine.dispose()

    def test_it_is_durable_and_has_room_and_pgvector_whatever_the_callers_shell_says(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {"PGPORT": "1", "PGHOST": "nowhere", "PGDATA": "/nowhere", "LC_ALL": "nonsense"}.items():
            monkeypatch.setenv(name, value)
        service = start_postgres(folder)
        names = ("fsync", "synchronous_commit", "max_connections", "shared_buffers", "listen_addresses")
        with psycopg.connect(service.url) as connection:
            row = connection.execute(f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}").fetchone()
            assert row == ("on", "on", "300", "256MB", "")
            assert connection.execute("SELECT '[1,2]'::vector <-> '[1,2]'").fetchone() == (0.0,)

    def test_a_path_that_is_too_long_for_a_socket_gets_a_private_folder(self, folder: Path) -> None:
        long = folder / ("long and with spaces" * 6)
        folder.mkdir(mode=0o711)
        service = start_postgres(long)
        sockets = service.record.socket_folder
        try:
            write(service)
            assert sockets is not None
            assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        finally:
            service.stop()
        assert not sockets.exists()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root has to be somebody else")
    def test_for_root_a_closed_folder_stays_closed(
        self, folder: Path, services_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The data go where Postgres's account can come, and are found again from here."""
        system = services_folder / "system"
        monkeypatch.setattr(accounts, "SYSTEM_FOLDER", system)
        folder.mkdir(mode=0o700)
        service = start_postgres(folder)
        write(service)
        service.stop()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (folder / "data").resolve().is_relative_to(system)
        assert read(start_postgres(folder)) == "yes"

    def test_a_lock_file_with_the_pid_of_another_program_is_no_obstacle(self, folder: Path) -> None:
        """After a crash in a container the pid is often in use again, by a worker."""
        service = start_postgres(folder)
        cluster = folder / "data" / "cluster"
        locks = {cluster / name: (cluster / name).read_text() for name in ("postmaster.pid", ".s.PGSQL.5432.lock")}
        service.stop()
        other = subprocess.Popen(["sleep", "60"], user=cluster.stat().st_uid)  # Postgres minds only its own account
        for lock, content in locks.items():
            lock.write_text(content.replace(str(service.record.process.pid), str(other.pid), 1))
        try:
            start_postgres(folder)
        finally:
            other.kill()
            other.wait()

    def test_a_start_that_fails_shows_the_end_of_the_log(self, folder: Path) -> None:
        start_postgres(folder).stop()
        (folder / "data" / "cluster" / "global" / "pg_control").unlink()
        with pytest.raises(InternalFault, match="could not find the database system"):
            start_postgres(folder)
        assert processes_in(folder) == []
