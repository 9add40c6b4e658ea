"""Runs under way: cancelled, resumed, retried, watched, and left alone by who started them."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.live_stack import LiveStack, wait_until
from tests.command_line import CommandLine, Outcome
from tests.pdf_file import pdf
from tests.standin.fixture import StandInProcess

DOCUMENTS, PER_BATCH, IN_FLIGHT = 300, 5, 8
LATENCY = 0.4
SOON = 3.0
STOPPED = 130
NOWHERE = "00000000-0000-4000-8000-000000000000"


def test_cancelled_at_a_third_it_stops_at_once_and_resumed_it_pays_for_nothing_twice(
    served: LiveStack, standin: StandInProcess, tmp_path: Path
) -> None:
    """Eight batches of five documents are under way at a time, each waiting for one call of the model."""
    standin.configure(embedding_latency=LATENCY)
    cli = served.cli.with_environment(CELERIAC_BATCH_DOCUMENTS=str(PER_BATCH), CELERIAC_WAVES_AT_ONCE="1")
    run_id = cli("ingest", _records(tmp_path), "--kb", "third", "--detach").out.strip()
    standin.wait_for(lambda seen: seen["texts"] >= 0.3 * DOCUMENTS, 30)

    cancelled = cli("runs", "cancel", run_id, "--json").json
    assert (cancelled["run"], cancelled["status"]) == (run_id, "cancelled")
    assert 0 < cancelled["indexed"] < DOCUMENTS
    settled = standin.wait_for(lambda seen: seen["in_flight"] == 0, SOON)["texts"]
    assert not wait_until(lambda: standin.counters()["texts"] > settled, SOON)
    assert settled < 0.8 * DOCUMENTS
    shown = cli("runs", "show", run_id, "--json").json
    assert shown["status"] == "cancelled"
    assert shown["indexed"] + sum(shown["waiting"].values()) == DOCUMENTS

    resumed = cli("runs", "resume", run_id[:8], "--json").json
    assert (resumed["status"], resumed["indexed"], resumed["failed"]) == ("done", DOCUMENTS, 0)
    # Each document is one text of its own, so that a clean run embeds as many.
    assert resumed["chunks"] == DOCUMENTS
    assert DOCUMENTS <= standin.counters()["texts"] <= DOCUMENTS + IN_FLIGHT * PER_BATCH


class TestRetry:
    def test_only_what_failed_is_taken_again(self, served: LiveStack, standin: StandInProcess, tmp_path: Path) -> None:
        _texts(tmp_path, 3)
        (tmp_path / "broken.pdf").write_text("No PDF.")
        first = _failed(served.cli("ingest", tmp_path, "--kb", "retried", "--json"))
        assert (first["indexed"], first["failed"]) == (3, 1)
        (failure,) = first["failures"]
        assert failure["document"].endswith("/broken.pdf")
        assert failure["hint"]
        wanted = {"stage": "parse", "attempt": 1, "code": "ParseFailed", "http_status": None, "retryable": False}
        assert {name: failure[name] for name in wanted} == wanted

        (tmp_path / "broken.pdf").write_bytes(pdf([["Now it is one."]]))
        again = served.cli("runs", "retry", "last", "--json").json
        assert (again["run"], again["status"]) == (first["run"], "done")
        assert (again["indexed"], again["failed"], again["failures"]) == (4, 0, [])
        assert standin.counters()["texts"] == 4
        assert "has no failed source" in served.cli("runs", "retry", "last").error(2)

    def test_a_refusal_of_the_model_is_told_with_its_status(
        self, served: LiveStack, standin: StandInProcess, tmp_path: Path
    ) -> None:
        standin.configure(faults=[{"kind": "status", "status": 401, "endpoint": "embeddings"}])
        _texts(tmp_path, 2)
        first = _failed(served.cli("ingest", tmp_path, "--kb", "refused", "--json"))
        assert [_cause(failure) for failure in first["failures"]] == [("embed", "AuthenticationFailed", 401)] * 2
        shown = served.cli("runs", "show", first["run"], "--failures", "1")
        assert "failed at embed: " in shown.out
        assert "AuthenticationFailed · HTTP 401 · attempt 1 · not retryable" in shown.out
        assert "1 more failed" in shown.err
        standin.reset()
        left = served.cli("runs", "retry", first["run"], "--detach", "--json").json
        assert left == {"run": first["run"], "sources": 2}
        assert served.cli("runs", "watch", "last", "--json").json["indexed"] == 2


class TestWatching:
    def test_a_run_outlives_the_command_that_started_it(
        self, served: LiveStack, standin: StandInProcess, tmp_path: Path
    ) -> None:
        standin.configure(embedding_latency=2.0)
        _texts(tmp_path, 3)
        ingesting = served.cli.start("ingest", tmp_path, "--kb", "outlived")
        standin.wait_for(lambda seen: seen["in_flight"] > 0)
        ingesting.kill()
        ingesting.communicate()
        watched = served.cli("runs", "watch", "last", "--json").json
        assert (watched["kb"], watched["status"], watched["indexed"]) == ("outlived", "done", 3)

    def test_a_watcher_sees_failures_as_they_come_and_may_leave(
        self, served: LiveStack, standin: StandInProcess, tmp_path: Path
    ) -> None:
        standin.configure(embedding_latency=6.0)
        _texts(tmp_path, 2)
        (tmp_path / "broken.pdf").write_text("No PDF.")
        run_id = served.cli("ingest", tmp_path, "--kb", "left", "--detach").out.strip()
        watching = served.cli.start("runs", "watch", "last")
        line = _first_line(watching)
        assert line.startswith(f"failed at parse: {tmp_path}/broken.pdf: ")
        standin.wait_for(lambda seen: seen["in_flight"] > 0)  # it came while the run was under way
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=20)
        assert watching.returncode == STOPPED
        assert f"manage.py runs watch {run_id}" in err.decode()
        assert "Traceback" not in err.decode()
        assert served.sql("SELECT status FROM runs WHERE id = %s", run_id)[0]["status"] == "running"
        assert served.settles()


class TestListing:
    @pytest.fixture
    def cli(self, served_filled: LiveStack) -> CommandLine:
        return served_filled.cli

    def test_the_newest_comes_first_and_can_be_chosen_by_status(self, cli: CommandLine) -> None:
        every, failed = (
            cli("runs", "list", "--json", "--limit", "500").json,
            cli("runs", "list", "--json", "--status", "failed").json,
        )
        assert [run["created_at"] for run in every] == sorted((run["created_at"] for run in every), reverse=True)
        assert {run["status"] for run in failed} <= {"failed"}
        assert cli("runs", "list", "--tenant", "nobody", "--json").json == []
        shown = cli("runs", "list", "--limit", "1")
        assert every[0]["id"][:8] in shown.out

    def test_what_can_not_be_meant_is_refused_in_one_line(self, cli: CommandLine) -> None:
        newest = cli("runs", "list", "--json", "--limit", "1", "--status", "done").json[0]["id"]
        refused = {
            ("show", NOWHERE): "no run",
            ("watch", "abc"): "no id of a run",
            ("show", "00000000"): "No run of tenant 'default' begins with",
            ("watch", "last", "--tenant", "nobody"): "has no run",
            ("cancel", newest): "is over already",
            ("resume", newest): "nothing left to do",
            ("retry", newest): "no failed source",
            ("list", "--status", "odd"): "--status 'odd'",
        }
        outcomes = cli.at_once([("runs", *words) for words in refused], processes=4)
        for outcome, said in zip(outcomes, refused.values(), strict=True):
            assert said in outcome.error(2), outcome


def _records(folder: Path) -> Path:
    file = folder / "records.jsonl"
    lines = (json.dumps({"id": f"r{n}", "text": f"Record {n} is about itself alone."}) for n in range(DOCUMENTS))
    file.write_text("\n".join(lines))
    return file


def _texts(folder: Path, count: int) -> None:
    for number in range(count):
        # Unlike any other test's, or it would be taken from the cache.
        (folder / f"{number}.txt").write_text(f"Text {number} of {folder}.")


def _failed(outcome: Outcome) -> dict[str, Any]:
    assert outcome.status == 1, outcome
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def _cause(failure: dict[str, Any]) -> tuple[str, str, int]:
    return failure["stage"], failure["code"], failure["http_status"]


def _first_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode()
