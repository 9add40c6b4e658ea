"""Runs under way: cancelled, resumed, retried, watched, and left alone by who started them."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
import sqlalchemy as sa

from tests.acceptance.live_stack import LiveStack, wait_until
from tests.command_line import CommandLine
from tests.pdf_file import pdf
from tests.standin.fixture import StandInProcess
from tests.unix_proxy import UnixProxy

DOCUMENTS, PER_BATCH, IN_FLIGHT = 300, 5, 8
LATENCY = 0.6
QUIET = 3.0
"""Seconds without a call after which nothing of a cancelled run is under way any more."""
PATIENCE = 60.0
STOPPED = 130
SOCKET = ".s.PGSQL.5432"
NOWHERE = "00000000-0000-4000-8000-000000000000"


def test_cancelled_at_a_third_it_stops_at_once_and_resumed_it_pays_for_nothing_twice(
    served: LiveStack, standin: StandInProcess, tmp_path: Path
) -> None:
    """Eight batches of five documents are under way at a time, each waiting for one call of the model."""
    standin.configure(embedding_latency=LATENCY)
    cli = served.cli.with_environment(CELERIAC_BATCH_DOCUMENTS=str(PER_BATCH), CELERIAC_WAVES_AT_ONCE="1")
    ingesting = cli.start("ingest", _records(tmp_path), "--kb", "third")
    standin.wait_for(lambda seen: seen["texts"] >= 0.3 * DOCUMENTS, PATIENCE)

    run_id = _newest(served, "third")
    ingesting.send_signal(signal.SIGINT)
    assert wait_until(lambda: _status(served, run_id) == "cancelled", 20)
    assert _settled(standin) < 0.8 * DOCUMENTS
    _, err = ingesting.communicate(timeout=PATIENCE)
    assert ingesting.returncode == STOPPED
    assert f"manage.py runs resume {run_id}" in err.decode()
    shown = cli("runs", "show", "last", "--json").json
    assert (shown["run"], shown["status"]) == (run_id, "cancelled")
    assert 0 < shown["indexed"] < DOCUMENTS
    assert shown["indexed"] + sum(shown["waiting"].values()) == DOCUMENTS

    resumed = cli("runs", "resume", run_id[:8], "--json").json
    assert (resumed["status"], resumed["indexed"], resumed["failed"]) == ("done", DOCUMENTS, 0)
    # Each document is one text of its own, so that a clean run embeds as many.
    assert resumed["chunks"] == DOCUMENTS
    assert DOCUMENTS <= standin.counters()["texts"] <= DOCUMENTS + IN_FLIGHT * PER_BATCH


def test_what_failed_is_told_with_its_cause_and_taken_again_when_that_is_mended(
    served: LiveStack, standin: StandInProcess, tmp_path: Path
) -> None:
    standin.configure(faults=[{"kind": "status", "status": 401, "endpoint": "embeddings"}])
    _texts(tmp_path, 2)
    broken = _broken(tmp_path)
    outcome = served.cli("ingest", tmp_path, "--kb", "retried", "--json")
    assert outcome.status == 1, outcome
    first = json.loads(outcome.out)
    assert (first["status"], first["indexed"], first["failed"]) == ("done", 0, 3)
    causes = {Path(failure["document"]).name: _cause(failure) for failure in first["failures"]}
    assert causes["broken.pdf"] == ("parse", 1, "ParseFailed", None, False)
    assert causes["0.txt"] == causes["1.txt"] == ("embed", 1, "AuthenticationFailed", 401, False)
    assert all(failure["message"] and failure["hint"] for failure in first["failures"])

    shown = served.cli("runs", "show", first["run"], "--failures", "2")
    assert f"failed at parse: {broken}: It is not a PDF file" in shown.out
    assert "AuthenticationFailed · HTTP 401 · attempt 1 · not retryable" in shown.out
    assert "1 more failed" in shown.err

    standin.reset()
    broken.write_bytes(pdf([["Now it is one."]]))
    assert served.cli("runs", "retry", "last", "--detach", "--json").json == {"run": first["run"], "sources": 3}
    again = served.cli("runs", "watch", "last", "--json").json
    assert (again["run"], again["status"], again["indexed"], again["failed"]) == (first["run"], "done", 3, 0)
    assert again["failures"] == []
    assert standin.counters()["texts"] == 3


def test_a_run_outlives_the_command_that_started_it(served: LiveStack, standin: StandInProcess, tmp_path: Path) -> None:
    standin.configure(embedding_latency=2.0)
    _texts(tmp_path, 3)
    ingesting = served.cli.start("ingest", tmp_path, "--kb", "outlived")
    standin.wait_for(lambda seen: seen["in_flight"] > 0, PATIENCE)
    ingesting.kill()
    ingesting.communicate()
    watched = served.cli("runs", "watch", "last", "--json").json
    assert (watched["kb"], watched["status"], watched["indexed"]) == ("outlived", "done", 3)


def test_a_watcher_sees_failures_as_they_come_outlasts_an_outage_of_postgres_and_may_leave(
    served: LiveStack, standin: StandInProcess, tmp_path: Path, door: UnixProxy, behind: CommandLine
) -> None:
    _texts(tmp_path, 2)
    broken = _broken(tmp_path)
    with _silent(standin):
        run_id = served.cli("ingest", tmp_path, "--kb", "watched", "--detach").out.strip()
        watching = behind.start("runs", "watch", "last")
        assert _line(watching.stdout).startswith(f"failed at parse: {broken}: ")
        door.shut()
        outage = _line_with(watching.stderr, "can't be reached")
        assert "waiting up to 60 s" in outage
        door.open()
        assert _line_with(watching.stderr, "is back") == "It is back.\n"
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=PATIENCE)
        assert watching.returncode == STOPPED
        assert out == b""
        assert f"manage.py runs watch {run_id}" in err.decode()
        assert "Traceback" not in err.decode()
        assert _status(served, run_id) == "running"
        cancelled = served.cli("runs", "cancel", run_id, "--json").json
        assert cancelled["status"] == _status(served, run_id) == "cancelled"
    standin.wait_for(lambda seen: seen["in_flight"] == 0, PATIENCE)


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """Short: the path of a socket has at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="celeriac-door-") as folder:
        yield Path(folder)


@pytest.fixture
def door(served: LiveStack, socket_folder: Path) -> Iterator[UnixProxy]:
    """In front of Postgres."""
    real = Path(str(sa.make_url(served.environment["DATABASE_URL"]).query["host"]))
    proxy = UnixProxy(real / SOCKET, socket_folder / SOCKET)
    proxy.open()
    yield proxy
    proxy.shut()


@pytest.fixture
def behind(served: LiveStack, door: UnixProxy, socket_folder: Path) -> CommandLine:
    """A command line that reaches Postgres through the door."""
    url = sa.make_url(served.environment["DATABASE_URL"]).update_query_dict({"host": str(socket_folder)})
    return served.cli.with_environment(DATABASE_URL=url.render_as_string(hide_password=False))


class TestListing:
    @pytest.fixture
    def cli(self, served_filled: LiveStack) -> CommandLine:
        return served_filled.cli

    def test_the_newest_comes_first_and_can_be_chosen_by_status(self, cli: CommandLine) -> None:
        words = [("--json", "--limit", "500"), ("--json", "--status", "done"), ("--limit", "1")]
        every, done, table = cli.at_once([("runs", "list", *options) for options in words], processes=3)
        times = [run["created_at"] for run in every.json]
        assert times == sorted(times, reverse=True)
        assert {run["status"] for run in done.json} == {"done"}
        assert every.json[0]["id"][:8] in table.out
        assert "The newest 1; more with --limit." in table.err

    def test_what_does_not_fit_the_state_is_refused_in_one_line(self, cli: CommandLine) -> None:
        done = cli("runs", "list", "--json", "--status", "done").json
        newest = next(run["id"] for run in done if not run["failed"])
        refused = {
            ("show", NOWHERE): "no run",
            ("cancel", newest): "is over already",
            ("resume", newest): "nothing left to do",
            ("retry", newest): "no failed source",
        }
        outcomes = cli.at_once([("runs", *words) for words in refused], processes=4)
        for outcome, said in zip(outcomes, refused.values(), strict=True):
            assert said in outcome.error(2), outcome


def _settled(standin: StandInProcess) -> int:
    """Texts embedded when no call has been made for a while."""
    seen = -1
    while (now := standin.wait_for(lambda found: found["in_flight"] == 0, PATIENCE)["texts"]) != seen:
        seen = now
        time.sleep(QUIET)
    return seen


def _records(folder: Path) -> Path:
    file = folder / "records.jsonl"
    lines = (json.dumps({"id": f"r{n}", "text": f"Record {n} is about itself alone."}) for n in range(DOCUMENTS))
    file.write_text("\n".join(lines))
    return file


def _texts(folder: Path, count: int) -> None:
    for number in range(count):
        # Unlike any other test's, or it would be taken from the cache.
        (folder / f"{number}.txt").write_text(f"Text {number} of {folder}.")


def _broken(folder: Path) -> Path:
    """A document that fails before the others have come far."""
    file = folder / "broken.pdf"
    file.write_text("No PDF.")
    return file


@contextmanager
def _silent(standin: StandInProcess) -> Iterator[None]:
    """The model answers nothing, so that no run can end."""
    os.kill(standin.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(standin.pid, signal.SIGCONT)


def _newest(stack: LiveStack, kb: str) -> str:
    query = "SELECT r.id::text FROM runs r JOIN knowledge_bases k ON k.id = kb_id WHERE name = %s ORDER BY r.created_at"
    return str(stack.sql(query, kb)[-1]["id"])


def _cause(failure: dict[str, Any]) -> tuple[object, ...]:
    return tuple(failure[name] for name in ("stage", "attempt", "code", "http_status", "retryable"))


def _status(stack: LiveStack, run_id: str) -> str:
    return str(stack.sql("SELECT status FROM runs WHERE id = %s", run_id)[0]["status"])


def _line_with(pipe: IO[bytes] | None, words: str) -> str:
    """The next line that holds the words; before it there may be some of progress."""
    while words not in (line := _line(pipe)):
        assert line, f"nothing said {words!r}"
    return line


def _line(pipe: IO[bytes] | None) -> str:
    assert pipe is not None
    return pipe.readline().decode()
