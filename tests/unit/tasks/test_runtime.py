"""A process as a gevent worker is when it has loaded the application."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.standin.fixture import ROOT

# What ``celery -A tasks.app worker -P gevent`` does before it starts.
WORKER = """
import sys
sys.argv = ["celery", "-A", "tasks.app", "worker", "-P", "gevent"]
from celery import maybe_patch_concurrency
maybe_patch_concurrency()
import tasks.app
"""
WAITS = {
    "kombu tries again": """
from kombu.utils.functional import retry_over_time
def wait():
    tries = iter([1, 0])
    retry_over_time(lambda: 1 / (1 - next(tries)), ZeroDivisionError, interval_start=2.4, max_retries=1)
""",
    "threads wait": """
import threading
def wait():
    threading.Event().wait(2.4)
""",
}
OTHERS = """
import gevent
ticks = []
def tick():
    while True:
        gevent.sleep(0.05)
        ticks.append(1)
ticking = gevent.spawn(tick)
gevent.spawn(wait).join()
print(len(ticks))
"""


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_while_one_slot_waits_the_others_go_on(wait: str, redis_url: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WORKER + wait + OTHERS],
        cwd=ROOT,
        env={"REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) >= 3
