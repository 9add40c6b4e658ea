"""Services the tests run against: real ones of their own, started on first use and stopped at the end."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from deploy.local.postgres import start_postgres
from deploy.local.redis import free_port as find_free_port
from deploy.local.redis import start_redis
from tests.standin.fixture import standin, standin_process, start_standin  # noqa: F401 - fixtures for all tests

WEAVIATE_URL = os.environ.get("WEAVIATE_URL", "")
"""The developer's own, for the tests that may use it; kept before the environment is cleared."""

_SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_SERVICES = ("REDIS_URL", "DATABASE_URL", "WEAVIATE_")
_PREFIXES = ("CELERIAC_", "OPENAI_", "FLOWER_", *_SERVICES)


class BySharedServers(LoadScopeScheduling):
    """Which tests stay in one process where there are several (``-n 3``): those of a folder that shares stacks or
    workers, so that hardly any is started twice; elsewhere those of a file. The acceptance tests are three such sets,
    since together they take longer than all others. By names, because the controller knows no more.
    """

    _SHARING: Mapping[str, tuple[str, ...]] = {"tests/acceptance": ("test_chat", "test_fs"), "tests/integration": ()}
    """Folders, and the names before which each is cut."""
    _ON_THEIR_OWN = ("test_benchmark", "test_chaos.py", "test_storms.py", "test_layout.py", "test_local_")

    def _split_scope(self, nodeid: str) -> str:
        folder, _, name = nodeid.partition("::")[0].rpartition("/")
        if folder not in self._SHARING or name.startswith(self._ON_THEIR_OWN):
            return f"{folder}/{name}"
        return f"{folder} {bisect(self._SHARING[folder], name)}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> BySharedServers:
    """Instead of ``--dist``."""
    return BySharedServers(config, log)


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Also where the tests run in the background of a shell: what they start there would be deaf to Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    """Results don't depend on the developer's shell, and no test can touch the developer's servers."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(_PREFIXES)]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def services_folder() -> Iterator[Path]:
    """A folder for servers. Short, for the sake of socket paths; open to Postgres's account when run as root."""
    folder = Path(tempfile.mkdtemp(prefix="celeriac-tests-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_url(services_folder: Path) -> Iterator[str]:
    """A Redis for the whole session. Tests use a namespace of their own and flush nothing."""
    service = start_redis(services_folder / "redis", die_with_parent=True)
    yield service.url
    service.stop()


@pytest.fixture(scope="session")
def postgres_url(services_folder: Path) -> Iterator[str]:
    """A Postgres with pgvector and an empty database for the whole session, as a URL of libpq.

    It waits for no disk: nothing of it outlives the session, and no test takes it down.
    """
    service = start_postgres(services_folder / "postgres", die_with_parent=True)
    with psycopg.connect(service.url, autocommit=True) as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")
    yield service.url
    service.stop()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The labelled data beside the repository."""
    if not _SHARED_DATA.is_dir():
        pytest.fail(f"The labelled data is missing: expected in {_SHARED_DATA}.", pytrace=False)
    return _SHARED_DATA


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Gives ports of 127.0.0.1 that nobody listens on."""
    return find_free_port
