"""Ctrl-C."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Corpus
from tests.acceptance.live_stack import LiveStack, wait_until
from tests.standin.fixture import StandInProcess

STOPPED = 130
CANCELLED = 4
PYTHON_BEGINS = ("Fatal Python error: init_", "Error processing line", "failed checking if argv[0]")
"""What it says of a Ctrl-C while it starts itself; after the latter two it goes on."""
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


def test_leaving_a_question_cancels_it_and_tells_how_to_leave_one_running(
    served_filled: LiveStack, standin: StandInProcess, corpus: Corpus
) -> None:
    standin.configure(chunks=500, stream_seconds=50)
    asking = served_filled.cli.start("ask", corpus.questions[4], "--json")
    standin.wait_for(lambda seen: seen["streams_open"] == 1, 30)
    status, out, err = _interrupted(asking)
    assert (status, out) == (STOPPED, "")
    (line,) = [line for line in err.splitlines() if line.strip()]
    assert "ask --detach" in line
    found = ID.search(line)
    assert found is not None
    standin.wait_for(lambda seen: len(seen["closed_early"]) == 1)  # of itself it would end in 50 s
    assert served_filled.question(corpus.questions[4])["status"] == "cancelled"
    assert "was cancelled" in served_filled.cli("result", found[0]).error(CANCELLED)


@pytest.mark.parametrize(
    "command", [("ask", "Who leaves so soon?"), ("ask", "Who leaves at once?", "--local"), ("status",)]
)
def test_leaving_before_anything_has_begun_says_nothing(
    served_filled: LiveStack, standin: StandInProcess, command: tuple[str, ...]
) -> None:
    """Whenever it comes: while modules are imported there is nothing to end in good order."""
    standin.configure(first_token=50)
    too_early = 0
    for delay in (0.2, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.2):
        begun = served_filled.cli.start(*command)
        time.sleep(delay)
        status, out, err = _interrupted(begun)
        seen = (delay, status, out, err)
        if err.startswith(PYTHON_BEGINS) or (status, out, err) == (-signal.SIGINT, "", ""):
            too_early += 1  # before Python itself was there, let alone anything of ours
            continue
        assert status == STOPPED or ("ask" not in command and status in (0, -signal.SIGINT)), seen  # it was over
        assert err == "" or err.startswith(("\nCancelled question", "\nIt was over already")), seen
        assert delay > 0.3 or (status, out, err) == (STOPPED, "", ""), seen
    query = "SELECT id FROM questions WHERE question = ANY(%s) AND status <> 'cancelled'"
    assert len(served_filled.sql(query, list(command))) <= too_early


def test_leaving_a_question_asked_without_a_broker_cancels_it_too(
    served_filled: LiveStack, standin: StandInProcess, corpus: Corpus
) -> None:
    standin.configure(first_token=50)
    asking = served_filled.cli.start("ask", corpus.questions[5], "--local")
    standin.wait_for(lambda seen: seen["streams_open"] == 1, 30)
    status, _, err = _interrupted(asking)
    assert status == STOPPED
    assert "Traceback" not in err
    standin.wait_for(lambda seen: len(seen["closed_early"]) == 1)  # of itself it would end in 50 s
    assert served_filled.question(corpus.questions[5])["status"] == "cancelled"


def test_leaving_an_ingest_cancels_the_run(served: LiveStack, standin: StandInProcess, tmp_path: Path) -> None:
    standin.configure(embedding_latency=2.0)
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text(f"Text number {number}.")
    ingesting = served.cli.start("ingest", tmp_path, "--kb", "cancelled")
    standin.wait_for(lambda seen: seen["in_flight"] > 0, 60)
    status, _, err = _interrupted(ingesting)
    assert status == STOPPED
    assert "Cancelled" in err
    assert "Traceback" not in err
    run = served.sql("SELECT id, status FROM runs ORDER BY created_at DESC LIMIT 1")[0]
    items = served.sql("SELECT status FROM run_items WHERE run_id = %s", run["id"])
    assert run["status"] == "cancelled"
    assert {item["status"] for item in items} == {"queued"}
    assert f"manage.py runs resume {run['id']}" in err
    standin.wait_for(lambda seen: seen["in_flight"] == 0)
    # What was under way changes nothing any more; another ingest does it all.
    assert served.cli("docs", "list", "--kb", "cancelled", "--status", "live", "--json").json == []
    standin.reset()
    assert served.cli("ingest", tmp_path, "--kb", "cancelled", "--json").json["indexed"] == 5


@pytest.fixture
def own_stack() -> Iterator[LiveStack]:
    stack = LiveStack()
    yield stack
    stack.stop()


def test_ctrl_c_in_the_foreground_stops_everything(own_stack: LiveStack) -> None:
    up = own_stack.cli.start("up")
    lines: list[str] = []
    reader = threading.Thread(target=_read, args=(up, lines))
    reader.start()
    assert wait_until(lambda: up.poll() is not None or any("Celeriac is up." in line for line in lines), 180), lines
    assert up.poll() is None, lines
    assert len(own_stack.processes()) > 8
    up.send_signal(signal.SIGINT)
    assert up.wait(timeout=90) == 0
    reader.join()
    assert own_stack.processes() == []
    assert own_stack.cli("down").err.strip() == "Nothing was up."


def _interrupted(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    return process.returncode, out.decode(), err.decode()


def _read(process: subprocess.Popen[bytes], lines: list[str]) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    lines.extend(line.decode() for line in process.stdout)
    process.stderr.read()
    process.stdout.close()
    process.stderr.close()
