"""The end of a run: what has vanished goes, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.ingest import flow
from pipeline.types import KnowledgeBase
from pipeline.wiring import Parts
from tests.installation import (
    Crash,
    consistent,
    counts,
    crashing,
    documents,
    found,
    ingest,
    live_chunks,
    live_texts,
    run_stages,
    started,
    write,
)


def test_prune_removes_what_has_vanished_under_the_paths_given_and_nothing_else(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    for folder in ("docs", "docs2"):
        write(tmp_path / folder, a=f"Owls of {folder}.", b=f"Bread of {folder}.")
    ingest(parts, kb, tmp_path / "docs", tmp_path / "docs2")
    for folder in ("docs", "docs2"):
        (tmp_path / folder / "b.txt").unlink()
    ingest(parts, kb, tmp_path / "docs")
    assert len(documents(parts, kb)) == 2  # both folders have an a.txt and a b.txt
    run_id = ingest(parts, kb, tmp_path / "docs", prune=True)
    assert parts.runs.find(run_id).pruned == 1
    assert live_texts(parts, kb) == ["Bread of docs2.", "Owls of docs.", "Owls of docs2."]
    assert parts.knowledge_bases.find(kb.tenant, kb.name).chunks == 3
    assert consistent(parts, kb)


def test_prune_keeps_what_another_run_has_added_meanwhile(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    """A file that appears after this run has listed its sources, and that another run ingests, has not vanished."""
    write(tmp_path, a="Owls hunt at night.")
    slow = started(parts, kb, tmp_path, prune=True)
    write(tmp_path, b="Bats hunt at night.")
    ingest(parts, kb, tmp_path)
    flow.run(slow, parts)
    assert live_texts(parts, kb) == ["Bats hunt at night.", "Owls hunt at night."]


def test_a_run_that_is_resumed_keeps_what_a_later_one_has_found_unchanged(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    """A disk was away when the run listed its sources; the run was cancelled, and goes on when the disk is back."""
    write(tmp_path, a="Owls hunt at night.", b="Bats hunt at night.")
    ingest(parts, kb, tmp_path)
    (tmp_path / "b.txt").rename(tmp_path / ".away")
    old = started(parts, kb, tmp_path, prune=True)
    parts.runs.cancel(old)
    (tmp_path / ".away").rename(tmp_path / "b.txt")
    ingest(parts, kb, tmp_path, prune=True)
    parts.runs.reopen(old)
    flow.run(old, parts)
    assert parts.runs.find(old).pruned == 0
    assert live_texts(parts, kb) == ["Bats hunt at night.", "Owls hunt at night."]


def test_prune_keeps_the_records_of_a_file_that_can_not_be_read_now(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    """A file that is damaged or locked for a moment has not vanished, and neither has what it held."""
    whole = json.dumps([{"_id": f"r{n}", "text": f"Record {n}."} for n in range(3)])
    (tmp_path / "records.json").write_text(whole)
    ingest(parts, kb, tmp_path)
    assert len(live_chunks(parts, kb)) == 3
    for damaged in (whole[:50], whole[:3], ""):
        (tmp_path / "records.json").write_text(damaged)
        run_id = ingest(parts, kb, tmp_path, prune=True)
        assert counts(parts, run_id)["failed"] == 1
        assert live_texts(parts, kb) == ["Record 0.", "Record 1.", "Record 2."]
    (tmp_path / "records.json").unlink()
    ingest(parts, kb, tmp_path, prune=True)
    assert live_texts(parts, kb) == []


def test_a_crash_while_pruning_leaves_nothing_that_can_be_found(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, a="Owls hunt at night.", b="Bread rises.")
    ingest(parts, kb, tmp_path)
    (tmp_path / "b.txt").unlink()
    run_id = started(parts, kb, tmp_path, prune=True)
    run_stages(parts, run_id, *flow.STAGES)
    with monkeypatch.context() as patch:
        patch.setattr(parts.store, "delete", crashing(parts.store.delete, before=True))
        with pytest.raises(Crash):
            flow.end(run_id, parts)
    assert found(parts, kb, "bread rises") == []
    assert flow.end(run_id, parts) == 1
    assert list(documents(parts, kb)) == ["a.txt"]
    assert parts.runs.find(run_id).pruned == 1
    assert consistent(parts, kb)


def test_what_an_end_prunes_that_comes_too_early_is_counted_all_the_same(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    """While a batch is open nothing ends the run; what has vanished is known from its beginning."""
    write(tmp_path, a="Owls hunt at night.", b="Bread rises.")
    ingest(parts, kb, tmp_path)
    (tmp_path / "b.txt").unlink()
    run_id = started(parts, kb, tmp_path, prune=True)
    assert flow.end(run_id, parts) == 1
    assert parts.runs.find(run_id).status == "running"
    run_stages(parts, run_id, *flow.STAGES)
    assert flow.end(run_id, parts) == 0
    run = parts.runs.find(run_id)
    assert (run.status, run.pruned) == ("done", 1)


def test_an_end_that_comes_again_ends_nothing_that_goes_on(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    """Given a run that ended and whose failures are tried again, when the message of its end comes a second time."""
    write(tmp_path, a="Owls hunt at night.", b=" ")
    run_id = ingest(parts, kb, tmp_path, prune=True)
    assert parts.runs.requeue(run_id) == 1
    assert flow.end(run_id, parts) == 0
    assert parts.runs.find(run_id).status == "running"
    write(tmp_path, b="Bread rises.")
    flow.run(run_id, parts)
    assert (parts.runs.find(run_id).status, counts(parts, run_id)) == ("done", {"done": 2})
    flow.end(run_id, parts)
    assert live_texts(parts, kb) == ["Bread rises.", "Owls hunt at night."]
