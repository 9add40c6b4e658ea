"""The Procfile that ships, and how it becomes processes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.local.procfile import processes, read_procfile
from pipeline.errors import BadSettings

WORKERS = {"ask": "gevent", "ingest": "gevent", "parse": "prefork", "control": "prefork"}


def test_there_is_one_line_for_each_kind_of_process() -> None:
    assert list(read_procfile()) == [*WORKERS, "beat", "flower"]


@pytest.mark.parametrize(("queue", "pool"), WORKERS.items())
def test_each_queue_has_a_worker_with_its_pool(queue: str, pool: str) -> None:
    """``-P`` stands apart from its value: written together, Celery patches too late for gevent."""
    words = read_procfile()[queue].split()
    assert words[words.index("-Q") + 1] == queue
    assert words[words.index("-P") + 1] == pool


@pytest.mark.parametrize("queue", ["ask", "ingest"])
def test_gevent_workers_prefetch_more_than_one(queue: str) -> None:
    """With a multiplier of 1 and late acknowledgement they sleep most of the time."""
    found = re.search(r"--prefetch-multiplier=(\d+)", read_procfile()[queue])
    assert found is not None
    assert int(found[1]) >= 2


def test_no_line_holds_a_login() -> None:
    """What is on a command line is seen by every user of the machine."""
    assert not any(re.search("auth|password", line, re.IGNORECASE) for line in read_procfile().values())


def test_only_the_kinds_that_wait_on_the_network_are_multiplied() -> None:
    specs = processes({"ask": "a", "ingest": "i", "parse": "p", "beat": "b"}, workers=2)
    assert [spec.name for spec in specs] == ["ask-1", "ask-2", "ingest-1", "ingest-2", "parse-1", "beat-1"]


def test_the_shell_expands_defaults_and_makes_way() -> None:
    (spec,) = processes({"ask": "celery -c ${ASK_CONCURRENCY:-100}"}, workers=1)
    assert spec.argv == ("/bin/sh", "-c", "exec celery -c ${ASK_CONCURRENCY:-100}")


@pytest.mark.parametrize("content", [None, "", "no process here", "a: one\na: two"])
def test_a_procfile_that_cannot_be_used_is_refused_by_name(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "Procfile"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadSettings, match="Procfile"):
        read_procfile(path)
