"""Ctrl-C."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Corpus
from tests.acceptance.live_stack import LiveStack, wait_until
from tests.standin.fixture import StandInProcess

STOPPED = 130
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


def test_leaving_a_question_tells_its_id_and_the_answer_comes_all_the_same(
    served_filled: LiveStack, standin: StandInProcess, corpus: Corpus
) -> None:
    standin.configure(first_token=1.5)
    asking = served_filled.cli.start("ask", corpus.questions[4])
    standin.wait_for(lambda seen: seen["streams_open"] == 1)
    status, _, err = _interrupted(asking)
    assert status == STOPPED
    (line,) = [line for line in err.splitlines() if line.strip()]
    found = ID.search(line)
    assert found is not None
    assert served_filled.settles()
    assert served_filled.cli("result", found[0], "--json").json["citations"]


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


@pytest.mark.timeout(120)
def test_ctrl_c_in_the_foreground_stops_everything(own_stack: LiveStack) -> None:
    up = own_stack.cli.start("up")
    lines: list[str] = []
    reader = threading.Thread(target=_read, args=(up, lines))
    reader.start()
    assert wait_until(lambda: any("Celeriac is up." in line for line in lines), 60), lines
    assert len(own_stack.processes()) > 8
    up.send_signal(signal.SIGINT)
    assert up.wait(timeout=40) == 0
    reader.join()
    assert own_stack.processes() == []
    assert own_stack.cli("down").err.strip() == "Nothing was up."


def _interrupted(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    return process.returncode, out.decode(), err.decode()


def _read(process: subprocess.Popen[bytes], lines: list[str]) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    lines.extend(line.decode() for line in process.stdout)
    process.stderr.read()
    process.stdout.close()
    process.stderr.close()
