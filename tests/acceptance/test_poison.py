"""Files that break readers cost one item each, with a cause; everything else of the run is indexed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from deploy.local.processes import ProcessRef
from tests import poison
from tests.acceptance.live_stack import LiveStack, wait_until

KB = "poisoned"
WITHIN = 180.0
MEMORY_MB = 1400
"""Of one process: what it starts with, and CELERIAC_PARSE_MEMORY_MB."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Ending:
    """What became of the folder."""

    folder: poison.PoisonFolder
    stack: LiveStack
    run: Row
    items: dict[str, Row]
    workers: dict[str, int]
    peak_mb: float

    def item(self, name: str) -> Row:
        """The row of the source of that name."""
        return self.items[self.folder.key(name)]


@pytest.fixture(scope="module")
def ending(offline: LiveStack, tmp_path_factory: pytest.TempPathFactory) -> Ending:
    """One run over the whole folder; between its listing and its parsing some files change."""
    folder = poison.PoisonFolder(tmp_path_factory.mktemp("poison") / "docs")
    parse = offline.state.processes["parse-1"]
    workers = {name: process.pid for name, process in offline.state.processes.items()}
    try:
        with folder.rewriting():
            with frozen(parse):
                run_id = offline.cli("ingest", folder.path, "--kb", KB, "--detach", "--json").json["run"]
                folder.spoil()
            peak_mb = watch_to_the_end(offline, run_id)
    finally:
        folder.remove_large()
    items = offline.sql("SELECT * FROM run_items WHERE run_id = %s", run_id)
    (run,) = offline.sql("SELECT * FROM runs WHERE id = %s", run_id)
    return Ending(folder, offline, run, {item["key"]: item for item in items}, workers, peak_mb)


@contextmanager
def frozen(worker: ProcessRef) -> Iterator[None]:
    """Nothing is parsed meanwhile; shorter than a heartbeat lasts."""
    for pid in worker.session():
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in worker.session():
            os.kill(pid, signal.SIGCONT)


def watch_to_the_end(stack: LiveStack, run_id: str) -> float:
    """The most memory that a process of the parsing worker took meanwhile, in MB."""
    peak, end = 0.0, time.monotonic() + WITHIN
    while stack.sql("SELECT status FROM runs WHERE id = %s", run_id)[0]["status"] == "running":
        assert time.monotonic() < end, stack.sql("SELECT key, status, error FROM run_items WHERE run_id = %s", run_id)
        peak = max(peak, *map(resident_mb, stack.state.processes["parse-1"].session()), 0.0)
        time.sleep(0.05)
    return peak


def resident_mb(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss / 2**20)
    except psutil.NoSuchProcess:
        return 0.0


def test_the_run_ends_with_every_item_in_a_final_state(ending: Ending) -> None:
    assert ending.run["status"] == "done"
    assert {item["status"] for item in ending.items.values()} == {"done", "failed"}


@pytest.mark.parametrize(("name", "cause"), poison.REFUSED.items(), ids=poison.REFUSED)
def test_what_can_not_be_read_fails_alone_with_its_cause(ending: Ending, name: str, cause: tuple[str, str]) -> None:
    item = ending.item(name)
    code, words = cause
    assert (item["status"], item["stage"]) == ("failed", "parse")
    assert item["error"]["code"] == code
    assert words in item["error"]["message"]
    assert item["error"]["hint"]
    assert item["error"]["retryable"] is False
    assert "\n" not in item["error"]["message"]


def test_html_nested_without_end_is_refused_or_read_and_kills_nobody(ending: Ending) -> None:
    item = ending.item(poison.NESTED_HTML)
    assert item["crashes"] == 0
    assert item["status"] == "done" or item["error"]["code"] == "ParseFailed"


def test_a_file_that_changes_while_it_is_read_is_never_indexed_torn(ending: Ending) -> None:
    item = ending.item(poison.CHANGING)
    texts = ending.stack.sql(
        "SELECT v.text FROM documents d JOIN document_versions v ON v.document_id = d.id WHERE d.id = %s",
        item["document_id"],
    )
    assert not any(poison.is_torn(row["text"]) for row in texts)
    assert (item["status"], len(texts)) == ("done", 1) or item["error"]["code"] == "UnreadableSource"


def test_links_without_an_end_are_no_sources(ending: Ending) -> None:
    assert [key for key in ending.items if any(name in key for name in poison.SKIPPED)] == []


def test_everything_else_is_indexed_and_found_whatever_its_name(ending: Ending) -> None:
    wanted = dict(ending.folder.good + ending.folder.odd)
    assert {ending.items[key]["status"] for key in wanted} == {"done"}
    live = ending.stack.sql(
        "SELECT d.key, v.text FROM documents d JOIN knowledge_bases k ON k.id = d.kb_id AND k.name = %s "
        "JOIN document_versions v ON v.document_id = d.id AND v.generation = d.live_generation",
        KB,
    )
    texts = {row["key"]: row["text"] for row in live}
    assert [key for key, word in wanted.items() if word not in texts[key]] == []
    asked = [*ending.folder.good[::15], *ending.folder.odd]
    answers = ending.stack.cli.at_once(
        [("search", f"gauge {word}", "--kb", KB, "--json") for _, word in asked], processes=2
    )
    for (_, word), answer in zip(asked, answers, strict=True):
        assert word in answer.json["passages"][0]["text"]


def test_no_worker_died_of_it_and_none_grew_beyond_its_bound(ending: Ending) -> None:
    assert {name: process.pid for name, process in ending.stack.state.processes.items()} == ending.workers
    assert 0 < ending.peak_mb < MEMORY_MB
    assert wait_until(lambda: ending.stack.cli("status", "--json").json["healthy"], 60)
