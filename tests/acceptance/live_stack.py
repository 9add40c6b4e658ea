"""A stack for tests, started and stopped by ``manage.py`` itself."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis
from psycopg.rows import dict_row

from deploy.local.state import StackState, read_state
from tests.command_line import CommandLine

SETTLES_WITHIN = 25.0


class LiveStack:
    """Services, workers and Flower in a folder of their own, and a command line that finds them."""

    def __init__(self, **environment: str) -> None:
        # Short, for the sake of socket paths; open to Postgres's account when run as root.
        self.home = Path(tempfile.mkdtemp(prefix="celeriac-up-")).resolve()
        self.home.chmod(0o711)
        self.cli = CommandLine({"CELERIAC_HOME": str(self.home), **environment})

    def start(self, workers: int = 2) -> None:
        """``up --detach``."""
        outcome = self.cli("up", "--workers", str(workers), "--detach", timeout=240)
        assert outcome.status == 0, outcome

    def stop(self) -> None:
        """``down``; nothing may be left."""
        outcome = self.cli("down")
        wait_until(lambda: not self.processes(), 10)  # the kernel is still at those that were killed
        left = self.processes()
        shutil.rmtree(self.home, ignore_errors=True)
        assert outcome.status == 0, outcome
        assert left == []

    def processes(self) -> list[str]:
        """All processes that have to do with this stack, by what they say of themselves."""
        return [f"{process.pid} {process.info['cmdline']}" for process in self._all() if self._is_mine(process)]

    @property
    def state(self) -> StackState:
        """What ``stack.json`` says."""
        state = read_state(self.home)
        assert state is not None
        return state

    @property
    def environment(self) -> dict[str, str]:
        """Where its services are."""
        return self.state.environment

    def sql(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Rows of Postgres."""
        with psycopg.connect(self.environment["DATABASE_URL"], row_factory=dict_row, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def redis(self) -> redis.Redis:
        """A client of its Redis."""
        return redis.Redis.from_url(self.environment["REDIS_URL"], decode_responses=True)

    def forget_refusals(self) -> None:
        """Open the gates before all services, as if they had never refused or failed."""
        redis = self.redis()
        for pattern in ("*:pace:*", "*:told:*"):
            for key in redis.scan_iter(pattern):
                redis.delete(key)

    def logs(self) -> str:
        """All logs."""
        return "\n".join(log.read_text(errors="replace") for log in sorted((self.home / "logs").iterdir()))

    def question(self, text: str) -> dict[str, Any]:
        """The row of the newest question of that text."""
        return self.sql("SELECT * FROM questions WHERE question = %s ORDER BY submitted_at DESC LIMIT 1", text)[0]

    def open_rows(self) -> list[dict[str, Any]]:
        """Questions and runs that have no end, and open items of runs that say they did all."""
        return self.sql("""
            SELECT 'question' AS kind, id::text, status FROM questions WHERE status = 'queued'
            UNION ALL SELECT 'run', id::text, status FROM runs WHERE status IN ('discovering', 'running')
            UNION ALL SELECT 'item', run_id || '/' || number, i.status FROM run_items i JOIN runs r ON r.id = run_id
                WHERE i.status = 'queued' AND r.status = 'done'
        """)

    def settles(self) -> bool:
        """Whether every question and run comes to an end."""
        return wait_until(lambda: not self.open_rows(), SETTLES_WITHIN)

    @staticmethod
    def _all() -> list[psutil.Process]:
        return list(psutil.process_iter(["cmdline", "environ", "cwd", "status"]))

    def _is_mine(self, process: psutil.Process) -> bool:
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            return False
        told = [*(process.info["cmdline"] or []), (process.info["environ"] or {}).get("CELERIAC_HOME", "")]
        return any(str(self.home) in text for text in [*told, process.info["cwd"] or ""])


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether ``condition`` comes true within ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
