"""The servers of a trial, each a process of its own: Redis and Postgres, made to die; Weaviate and the stand-in."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil
import psycopg
import redis
import sqlalchemy as sa

from deploy.local.postgres import start_postgres
from deploy.local.processes import collect
from deploy.local.redis import start_redis
from deploy.local.service import RunningService
from tests.standin.fixture import StandInProcess
from tests.weaviate_server import WeaviateServer

StoreName = Literal["pgvector", "weaviate"]
RedisEnd = Literal["SIGKILL", "SHUTDOWN NOSAVE"]

_DIES_WITHIN = 10.0
DIMENSIONS = 256


class Services:
    """Servers on free ports with their data below ``folder``; one set serves all seeds, one after the other."""

    def __init__(self, folder: Path, store: StoreName) -> None:
        """Start all of them; whatever goes wrong on the way, what was started is stopped."""
        self._folder = folder
        self._exits = ExitStack()
        self._frozen: list[psutil.Process] = []
        with self._exits:
            self.standin = StandInProcess()
            self._exits.callback(self.standin.stop)
            self._redis = start_redis(folder / "redis", die_with_parent=True)
            self._exits.callback(lambda: self._redis.stop())
            self._postgres = start_postgres(folder / "postgres", die_with_parent=True)
            self._exits.callback(lambda: self._postgres.stop())
            self._weaviate = self._start_weaviate() if store == "weaviate" else None
            self._exits.callback(self.thaw)
            self._exits = self._exits.pop_all()

    def stop(self) -> None:
        """Stop all of them."""
        self._exits.close()

    @property
    def redis_url(self) -> str:
        """Where Redis is, also after a restart."""
        return self._redis.url

    def environment(self, name: str) -> dict[str, str]:
        """Variables of an installation of its own: a new database, and a namespace in Redis."""
        with psycopg.connect(self._postgres.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        url = sa.make_url(self._postgres.url).set(database=name).render_as_string(hide_password=False)
        found = {
            "REDIS_URL": self._redis.url,
            "DATABASE_URL": url,
            "OPENAI_BASE_URL": self.standin.url,
            "OPENAI_API_KEY": "sk-chaos",
            "CELERIAC_EMBEDDING_DIMENSIONS": str(DIMENSIONS),
            "CELERIAC_NAMESPACE": name,
        }
        if self._weaviate is not None:
            found |= {"WEAVIATE_URL": self._weaviate.url, "WEAVIATE_GRPC_URL": self._weaviate.grpc_url}
        return found

    def end_redis(self, how: RedisEnd) -> None:
        """Take Redis down without warning, or with one that saves nothing; its append-only file stays."""
        if how == "SIGKILL":
            self._redis.record.process.send(signal.SIGKILL)
        else:
            with redis.Redis.from_url(self._redis.url, socket_timeout=5) as client:
                client.shutdown(nosave=True)
        _bury(self._redis)

    def revive_redis(self) -> None:
        """Start it again on its data, at its port."""
        self._redis = start_redis(self._folder / "redis", port=urlsplit(self._redis.url).port, die_with_parent=True)

    def end_postgres(self) -> None:
        """Immediate shutdown: sessions are cut off, nothing is written any more."""
        self._postgres.record.process.send(signal.SIGQUIT)
        _bury(self._postgres)

    def revive_postgres(self) -> None:
        """Start it again, at its address; it recovers from its log."""
        sockets = self._postgres.record.socket_folder
        self._postgres = start_postgres(self._folder / "postgres", sockets=sockets, die_with_parent=True)

    def freeze(self, server: Literal["redis", "postgres"]) -> None:
        """Stop all its processes; they are there, and say nothing."""
        service = self._redis if server == "redis" else self._postgres
        parent = psutil.Process(service.record.process.pid)
        parent.suspend()  # before its children are counted, so that it can't have more
        self._frozen.append(parent)
        for child in parent.children(recursive=True):
            self._frozen.append(child)
            with suppress(psutil.NoSuchProcess):
                child.suspend()

    def thaw(self) -> None:
        """Let what is frozen go on."""
        while self._frozen:  # the parent last
            with suppress(psutil.NoSuchProcess):
                self._frozen.pop().resume()

    def end_weaviate(self) -> None:
        """SIGKILL; nothing listens at its ports any more."""
        assert self._weaviate is not None
        self._weaviate.kill()

    def revive_weaviate(self) -> None:
        """Start it again on its data, at its ports; returns when it is ready."""
        assert self._weaviate is not None
        self._weaviate.start()

    def _start_weaviate(self) -> WeaviateServer:
        server = WeaviateServer()
        self._exits.callback(server.remove)
        server.start()
        return server


def _bury(service: RunningService) -> None:
    process = service.record.process
    end = time.monotonic() + _DIES_WITHIN
    while process.alive():
        if time.monotonic() > end:
            raise AssertionError(f"{service.record.name} did not die within {_DIES_WITHIN:g} s")
        time.sleep(0.01)
    collect(process)
