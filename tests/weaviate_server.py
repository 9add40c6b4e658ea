"""A real Weaviate for tests: the one in WEAVIATE_URL, or a process of our own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from deploy.local.redis import free_port

CONFIGURED_URL = os.environ.get("WEAVIATE_URL")
CONFIGURED_GRPC_URL = os.environ.get("WEAVIATE_GRPC_URL")
CONFIGURED_API_KEY = os.environ.get("WEAVIATE_API_KEY")
"""Read when this module is imported, before fixtures may clean the environment."""

START_SECONDS = 60.0
_PORTS = ("http", "grpc", "gossip", "data", "raft", "raft_rpc")


def weaviate_program() -> str | None:
    """Path of the server's program, or None where there is none."""
    return shutil.which("weaviate")


class WeaviateServer:
    """One node with data in a folder of its own, on free ports; ``api_key`` switches anonymous access off."""

    def __init__(self, *, api_key: str | None = None) -> None:
        """Choose ports and a folder; start nothing yet."""
        self.folder = Path(tempfile.mkdtemp(prefix="weaviate-test-"))
        self.ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        self._api_key = api_key
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For WEAVIATE_URL."""
        return f"http://127.0.0.1:{self.ports['http']}"

    @property
    def grpc_url(self) -> str:
        """For WEAVIATE_GRPC_URL."""
        return f"127.0.0.1:{self.ports['grpc']}"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Start, again on the same ports and data after :meth:`stop`; returns when it is ready."""
        program = weaviate_program()
        assert program is not None, "no weaviate on PATH"
        command = [program, "--host", "127.0.0.1", "--port", str(self.ports["http"]), "--scheme", "http"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment(), stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def pause(self) -> None:
        """Freeze the process, and return when all of it stands still: it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        threads = Path(f"/proc/{self._process.pid}/task")
        # On a busy machine a thread that was about to answer may do so after the signal was sent.
        while threads.exists() and any(_state(thread) != "T" for thread in threads.iterdir()):
            time.sleep(0.005)

    def resume(self) -> None:
        """Let a frozen process go on."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop the process by its id; its data stay."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it without warning; its data stay."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Stop, and delete the data."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        keys = {
            "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false",
            "AUTHENTICATION_APIKEY_ENABLED": "true",
            "AUTHENTICATION_APIKEY_ALLOWED_KEYS": f"{self._api_key}",
            "AUTHENTICATION_APIKEY_USERS": "tester",
        }
        return {
            "PATH": os.environ.get("PATH", ""),
            "PERSISTENCE_DATA_PATH": str(self.folder / "data"),
            "DEFAULT_VECTORIZER_MODULE": "none",
            "API_BASED_MODULES_DISABLED": "true",
            "GRPC_PORT": str(self.ports["grpc"]),
            "CLUSTER_HOSTNAME": "node1",
            "CLUSTER_ADVERTISE_ADDR": "127.0.0.1",
            "CLUSTER_GOSSIP_BIND_PORT": str(self.ports["gossip"]),
            "CLUSTER_DATA_BIND_PORT": str(self.ports["data"]),
            "RAFT_PORT": str(self.ports["raft"]),
            "RAFT_INTERNAL_RPC_PORT": str(self.ports["raft_rpc"]),
            "RAFT_BOOTSTRAP_EXPECT": "1",
            # A single node needs no patience: ready in 2 s instead of 10 s.
            "RAFT_TIMEOUTS_MULTIPLIER": "1",
            "DISABLE_TELEMETRY": "true",
            "GO_PROFILING_DISABLE": "true",
            "LOG_LEVEL": "warning",
        } | (keys if self._api_key else {"AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "true"})

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        give_up = time.monotonic() + START_SECONDS
        while not _answers(f"{self.url}/v1/.well-known/ready"):
            if self._process.poll() is not None or time.monotonic() > give_up:
                tail = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"Weaviate did not become ready; its log ends with:\n{tail}")
            time.sleep(0.05)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "not started"
        os.kill(self._process.pid, number)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_ports(count: int) -> set[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return ports


def _state(thread: Path) -> str:
    """The state of a thread as proc_pid_stat(5) has it; it stands after the name, which may hold anything."""
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]
