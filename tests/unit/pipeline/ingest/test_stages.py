"""The stages of a run on real files, a real ledger and a real store."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.ask import flow as ask_flow
from pipeline.ask.question import new_question
from pipeline.errors import InternalFault, ModelMismatch, NotFound, Unreachable
from pipeline.ingest import flow
from pipeline.ingest.chunk import chunk_id
from pipeline.ingest.upsert import upsert
from pipeline.seams import Embeddings
from pipeline.types import AskOptions, Batch, IndexEntry, IndexRef, KnowledgeBase, ParsedDocument, Vector
from pipeline.wiring import Parts
from tests.installation import (
    CountingEmbedder,
    counts,
    execute,
    ingest,
    live_chunks,
    live_texts,
    new_kb,
    run_stages,
    scalars,
    started,
    stored_chunks,
    write,
)

LONG = " ".join(f"Sentence number {n} tells of the {n}th river." for n in range(30))


def with_(parts: Parts, **replaced: object) -> Parts:
    """The same parts, with some replaced."""
    other = Parts(parts.settings)
    other.__dict__.update({**parts.__dict__, **replaced})
    return other


def found(parts: Parts, kb: KnowledgeBase, text: str) -> list[str]:
    """Texts that a question of keywords finds."""
    question = new_question(text, parts.settings, kb=kb.name, options=AskOptions(alpha=0.0, min_score=0.0))
    return [passage.text for passage in ask_flow.retrieve(question, parts).passages]


def consistent(parts: Parts, kb: KnowledgeBase) -> bool:
    """Whether the store holds what readers may see, and nothing else, and no superseded row is left."""
    rows = set(scalars(parts, "SELECT id::text FROM chunks WHERE kb_id = :kb", kb=kb.id))
    return live_chunks(parts, kb) == stored_chunks(parts, kb) == rows


def documents(parts: Parts, kb: KnowledgeBase) -> dict[str, dict[str, object]]:
    return {Path(str(row["key"])).name: row for row in parts.passages.documents(kb.id)}


# --------------------------------------------------------------------------- new, unchanged, changed


def test_new_documents_become_searchable(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    owls = f"Owls hunt at night {kb.id[:8]}."
    write(tmp_path, a=owls, b=f"{kb.id} was never embedded before. {LONG}")
    run_id = started(parts, kb, tmp_path)
    assert run_stages(parts, run_id, "parse") == [2]
    made, embedded, stored = run_stages(parts, run_id, "chunk", "embed", "upsert")
    assert made == stored > 2
    assert 2 <= embedded <= made  # other tests may have embedded the rest
    flow.end(run_id, parts)
    assert counts(parts, run_id) == {"done": 2}
    assert parts.runs.find(run_id).status == "done"
    assert parts.knowledge_bases.find(kb.tenant, kb.name).chunks == made
    assert consistent(parts, kb)
    assert found(parts, kb, "owls") == [owls]


def test_unchanged_documents_cost_nothing(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    write(tmp_path, a="Owls hunt at night.", b="Bread rises.")
    ingest(parts, kb, tmp_path)
    before = stored_chunks(parts, kb)
    embedder = CountingEmbedder(parts)
    run_id = ingest(with_(parts, embedder=embedder), kb, tmp_path)
    assert embedder.texts == []
    assert counts(parts, run_id) == {"unchanged": 2}
    progress = parts.runs.progress(run_id)
    assert (progress.chunks, progress.embedded) == (0, 0)
    assert stored_chunks(parts, kb) == before


@pytest.mark.parametrize("setting", [{"chunk_tokens": 20}, {"chunk_overlap_tokens": 5}])
def test_reading_them_in_another_way_makes_all_of_them_changed(
    setting: dict[str, int], parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path, a=LONG)
    ingest(parts, kb, tmp_path)
    before = live_texts(parts, kb)
    other = Parts(parts.settings.model_copy(update=setting))
    run_id = ingest(other, kb, tmp_path)
    other.close()
    assert counts(parts, run_id) == {"done": 1}
    assert live_texts(parts, kb) != before
    assert consistent(parts, kb)


def test_the_old_generation_answers_until_the_new_one_is_complete(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path, a="The code word is marzipan. " + LONG)
    ingest(parts, kb, tmp_path)
    write(tmp_path, a="The code word is nougat. " + LONG)
    run_id = started(parts, kb, tmp_path)
    for stage in ("parse", "chunk", "embed"):
        run_stages(parts, run_id, stage)
        assert "marzipan" in found(parts, kb, "code word")[0]
    assert len(live_chunks(parts, kb)) < len(scalars(parts, "SELECT id FROM chunks WHERE kb_id = :kb", kb=kb.id))
    run_stages(parts, run_id, "upsert")
    assert "nougat" in found(parts, kb, "code word")[0]
    assert not any("marzipan" in text for text in live_texts(parts, kb))
    assert consistent(parts, kb)


def test_a_changed_document_embeds_only_the_texts_that_changed(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    write(tmp_path, a=LONG)
    ingest(parts, kb, tmp_path)
    write(tmp_path, a=LONG + " And one sentence more at the very end of it.")
    embedder = CountingEmbedder(parts)
    run_id = ingest(with_(parts, embedder=embedder), kb, tmp_path)
    progress = parts.runs.progress(run_id)
    assert 0 < len(embedder.texts) == progress.embedded < progress.chunks


# --------------------------------------------------------------------------- equal texts and equal keys


def test_a_text_in_two_documents_is_embedded_once_and_found_in_both(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path / "one", same="Equal words in both of the files.")
    write(tmp_path / "two", same="Equal words in both of the files.")
    embedder = CountingEmbedder(parts)
    run_id = ingest(with_(parts, embedder=embedder), kb, tmp_path)
    assert len(embedder.texts) == len(set(embedder.texts)) == 1
    assert parts.runs.progress(run_id).embedded == 1
    assert found(parts, kb, "equal words") == ["Equal words in both of the files."] * 2
    assert len(stored_chunks(parts, kb)) == 2
    (tmp_path / "one" / "same.txt").unlink()
    ingest(parts, kb, tmp_path, prune=True)
    assert found(parts, kb, "equal words") == ["Equal words in both of the files."]
    assert consistent(parts, kb)


def test_of_two_records_with_one_id_the_last_counts(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    lines = [{"_id": "x", "text": "First version."}, {"_id": "y", "text": "Other."}, {"_id": "x", "text": "Last one."}]
    (tmp_path / "records.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    run_id = ingest(parts, kb, tmp_path)
    assert counts(parts, run_id) == {"done": 2}
    assert live_texts(parts, kb) == ["Last one.", "Other."]
    assert consistent(parts, kb)


def test_the_last_counts_also_across_batches(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    lines = [{"_id": "x", "text": f"Version {n}."} for n in range(5)]
    (tmp_path / "records.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    from tests.installation import manifest

    run_id = manifest(parts, kb, tmp_path, batch_documents=2)
    parts.runs.start(run_id)
    flow.run(run_id, parts)
    assert live_texts(parts, kb) == ["Version 4."]
    assert counts(parts, run_id) == {"done": 1}


def test_a_chunk_has_the_same_id_however_often_it_is_made_and_no_other_has_it() -> None:
    kb, document = "6a5e5c80-0000-4000-8000-000000000001", "6a5e5c80-0000-4000-8000-000000000002"
    ids = {chunk_id(kb, document, generation, ordinal) for generation in (1, 2, 11) for ordinal in (0, 1, 11)}
    assert len(ids) == 9
    assert chunk_id(kb, document, 1, 0) == chunk_id(kb, document, 1, 0)
    assert chunk_id(document, document, 1, 0) != chunk_id(kb, document, 1, 0)


# --------------------------------------------------------------------------- failures


def test_one_document_that_can_not_be_read_fails_alone_with_its_cause(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path, a="Owls hunt at night.", gone="Soon gone.", c="Bread rises.")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing")
    run_id = started(parts, kb, tmp_path)
    (tmp_path / "gone.txt").unlink()
    flow.run(run_id, parts)
    assert counts(parts, run_id) == {"done": 2, "failed": 2}
    causes = {Path(key).name: error for key, error in parts.runs.failures(run_id)}
    assert (causes["broken.pdf"]["code"], causes["gone.txt"]["code"]) == ("ParseFailed", "UnreadableSource")
    assert all(cause["hint"] for cause in causes.values())
    assert {name: row["status"] for name, row in documents(parts, kb).items()} == {
        "a.txt": "live",
        "broken.pdf": "failed",
        "c.txt": "live",
        "gone.txt": "failed",
    }
    assert consistent(parts, kb)


class Exploding:
    """A parser, and a chunker, that throw what they were given."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def parse(self, *_: object) -> ParsedDocument:
        raise self._error

    def chunk(self, _document: ParsedDocument) -> list[object]:
        raise self._error


@pytest.mark.parametrize("part", ["parsers", "chunker"])
@pytest.mark.parametrize("error", [RecursionError("too\ndeep"), MemoryError(), ValueError("nul \x00 half \ud83d")])
def test_whatever_a_parser_or_chunker_throws_is_the_fate_of_one_document(
    part: str, error: Exception, parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path, a="Owls hunt at night.")
    bad = Exploding(error)
    run_id = ingest(with_(parts, **{part: {"text": bad} if part == "parsers" else bad}), kb, tmp_path)
    assert counts(parts, run_id) == {"failed": 1}
    ((_, cause),) = parts.runs.failures(run_id)
    assert cause["code"] == "InternalFault"
    assert type(error).__name__ in cause["message"]
    assert "\n" not in cause["message"]


class Dirty:
    """A parser of somebody else's that lets through what Postgres can't hold."""

    def __init__(self, parts: Parts) -> None:
        self._inner = parts.parsers["text"]

    def parse(self, data: bytes, *arguments: object) -> ParsedDocument:
        document = self._inner.parse(data, *arguments)  # type: ignore[arg-type]
        return document.model_copy(update={"text": document.text.replace("NUL", "\0")})


def test_a_text_that_the_database_can_not_hold_is_the_fate_of_one_document(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    """All drafts of a batch are written in one statement: one bad text must not take the others with it."""
    write(tmp_path, a="Owls hunt at night.", b="A NUL in the middle.")
    ingest(with_(parts, parsers={"text": Dirty(parts)}), kb, tmp_path)
    assert documents(parts, kb)["a.txt"]["status"] == "live"


def test_a_document_that_breaks_keeps_its_last_good_generation(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    write(tmp_path, a="Owls hunt at night.")
    ingest(parts, kb, tmp_path)
    (tmp_path / "a.txt").write_text(" \n ")
    run_id = ingest(parts, kb, tmp_path)
    assert counts(parts, run_id) == {"failed": 1}
    row = documents(parts, kb)["a.txt"]
    assert row["status"] == "live"
    assert row["error"]["code"] == "ParseFailed"  # type: ignore[index]
    assert found(parts, kb, "owls") == ["Owls hunt at night."]


def test_a_document_that_is_mended_is_read_again_and_loses_its_error(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    """A hash stored before success would skip it; an error kept after it would alarm for ever."""
    for content in (" ", "Owls hunt at night.", " "):
        (tmp_path / "a.txt").write_text(content)
        ingest(parts, kb, tmp_path)
    assert documents(parts, kb)["a.txt"]["error"] is not None
    (tmp_path / "a.txt").write_text("Owls hunt at night.")
    run_id = ingest(parts, kb, tmp_path)
    assert counts(parts, run_id) == {"unchanged": 1}
    assert documents(parts, kb)["a.txt"]["error"] is None


def test_a_batch_that_is_given_up_ends_its_open_items_with_the_cause(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path, a="Owls hunt at night.", b=" ")
    run_id = started(parts, kb, tmp_path)
    run_stages(parts, run_id, "parse")
    flow.give_up(Batch(run_id=run_id, number=0), Unreachable("The model is down.", "Start it."), parts)
    flow.end(run_id, parts)
    causes = {Path(key).name: cause["code"] for key, cause in parts.runs.failures(run_id)}
    assert causes == {"a.txt": "Unreachable", "b.txt": "ParseFailed"}
    assert counts(parts, run_id) == {"failed": 2}


# --------------------------------------------------------------------------- delivered twice, crashed between


@pytest.mark.parametrize("stage", flow.STAGES)
def test_any_stage_may_run_twice(stage: str, parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    write(tmp_path, a="Owls hunt at night.", b=LONG)
    embedder = CountingEmbedder(parts)
    counting = with_(parts, embedder=embedder)
    run_id = started(parts, kb, tmp_path)
    for name in flow.STAGES:
        run_stages(counting, run_id, name)
        if name == stage:
            assert run_stages(counting, run_id, name) == [0]
    flow.end(run_id, parts)
    flow.end(run_id, parts)
    assert counts(parts, run_id) == {"done": 2}
    assert len(embedder.texts) == len(set(embedder.texts))
    assert consistent(parts, kb)


class Crash(BaseException):
    """The worker dies here: nothing of ours may catch it."""


def crashing(inner: Callable[..., object], *, before: bool) -> Callable[..., object]:
    """``inner`` with a crash before or after it."""

    def call(*arguments: object, **named: object) -> object:
        if not before:
            inner(*arguments, **named)
        raise Crash

    return call


CRASHES = [
    *(("parse", "documents", "register"), ("parse", "documents", "save_drafts"), ("parse", "runs", "advance")),
    *(("chunk", "documents", "save_chunks"), ("chunk", "runs", "advance")),
    *(("embed", "embeddings", "save"), ("embed", "runs", "advance")),
    *(("upsert", "store", "upsert"), ("upsert", "documents", "switch"), ("upsert", "store", "delete")),
    *(("upsert", "documents", "forget_superseded"), ("upsert", "runs", "advance")),
]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(("stage", "part", "step"), CRASHES)
def test_a_run_goes_on_from_a_crash_at_any_step(
    stage: str,
    part: str,
    step: str,
    before: bool,
    parts: Parts,
    kb: KnowledgeBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given a live generation, when a worker dies while it writes the next one, then the old one answers until a
    second delivery is done, and nothing of the first is left behind.
    """
    write(tmp_path, a=f"The code word is marzipan. {LONG}")
    ingest(parts, kb, tmp_path)
    write(tmp_path, a=f"The code word is nougat. {kb.id} was never embedded before. {LONG}")
    run_id = started(parts, kb, tmp_path)
    run_stages(parts, run_id, *flow.STAGES[: flow.STAGES.index(stage)])
    owner = getattr(parts, part)
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, crashing(getattr(owner, step), before=before))
        with pytest.raises(Crash):
            run_stages(parts, run_id, stage)
    words = {word for text in found(parts, kb, "code word") for word in ("marzipan", "nougat") if word in text}
    assert len(words) == 1  # the old or the new one, never both and never none
    run_stages(parts, run_id, *flow.STAGES)
    flow.end(run_id, parts)
    assert counts(parts, run_id) == {"done": 1}
    assert any("nougat" in text for text in live_texts(parts, kb))
    assert consistent(parts, kb)


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


def test_two_runs_over_the_same_files_end_with_one_generation(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    """Given two runs side by side, whichever switches last, the newer generation stays and the other leaves nothing."""
    write(tmp_path, a=f"Version one. {LONG}")
    one = started(parts, kb, tmp_path)
    run_stages(parts, one, "parse", "chunk", "embed")
    write(tmp_path, a=f"Version two. {LONG}")
    two = started(parts, kb, tmp_path)
    run_stages(parts, two, *flow.STAGES)
    run_stages(parts, one, "upsert")
    for run_id in (one, two):
        flow.end(run_id, parts)
        assert counts(parts, run_id) == {"done": 1}
    assert any("Version two" in text for text in live_texts(parts, kb))
    assert consistent(parts, kb)


# --------------------------------------------------------------------------- the end of a run


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


def test_what_is_written_after_a_newer_generation_went_live_is_taken_out_again(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    """The slower of two runs writes to the store when its generation has been done away with: no orphan may stay."""
    write(tmp_path, a="Owls hunt at night.")
    slow = started(parts, kb, tmp_path)
    run_stages(parts, slow, "parse", "chunk", "embed")
    write(tmp_path, a="Owls sleep by day.")

    class Overtaken:
        """The store; before it writes, another run goes all the way."""

        def upsert(self, *arguments: object, timeout: float) -> None:
            if not overtaken:
                overtaken.append(ingest(parts, kb, tmp_path))
            parts.store.upsert(*arguments, timeout=timeout)  # type: ignore[arg-type]

        def delete(self, *arguments: object, timeout: float) -> None:
            parts.store.delete(*arguments, timeout=timeout)  # type: ignore[arg-type]

    overtaken: list[str] = []
    run_stages(with_(parts, store=Overtaken()), slow, "upsert")
    assert overtaken
    assert live_texts(parts, kb) == ["Owls sleep by day."]
    assert stored_chunks(parts, kb) == live_chunks(parts, kb)


def test_a_draft_that_was_overtaken_before_it_was_cut_is_no_failure(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path, a="Owls hunt at night.")
    slow = started(parts, kb, tmp_path)
    run_stages(parts, slow, "parse")
    write(tmp_path, a="Owls sleep by day.")
    ingest(parts, kb, tmp_path)
    flow.run(slow, parts)
    assert counts(parts, slow) == {"unchanged": 1}
    assert live_texts(parts, kb) == ["Owls sleep by day."]


def test_vectors_of_another_size_never_enter_the_cache(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    """They would be found there when the right size is asked for, and no operator would know why."""
    write(tmp_path, a="A text of which somebody makes a vector that is too short.")
    run_id = started(parts, kb, tmp_path)
    run_stages(parts, run_id, "parse", "chunk")
    with pytest.raises(ModelMismatch, match="gave 3 dimensions"):
        run_stages(with_(parts, embedder=Short()), run_id, "embed")
    run_stages(parts, run_id, "embed", "upsert")
    assert counts(parts, run_id) == {"done": 1}


class Short:
    """An embedding model that was told another size."""

    model, dimensions = "wordllama-256", 256

    def embed(self, texts: Sequence[str], *, timeout: float) -> Embeddings:
        return Embeddings(vectors=tuple(np.ones(3, dtype=np.float32) for _ in texts))


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


def test_a_run_that_was_cancelled_goes_no_further_and_can_not_be_done(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path, a="Owls hunt at night.")
    run_id = started(parts, kb, tmp_path)
    run_stages(parts, run_id, "parse", "chunk")
    assert parts.runs.finish(run_id, "cancelled")
    assert run_stages(parts, run_id, "embed", "upsert") == [0, 0]
    assert flow.end(run_id, parts) == 0
    assert parts.runs.find(run_id).status == "cancelled"
    assert counts(parts, run_id) == {"cancelled": 1}
    assert stored_chunks(parts, kb) == set()


def test_a_run_whose_knowledge_base_was_deleted_is_not_there(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    write(tmp_path, a="Owls hunt at night.")
    run_id = started(parts, kb, tmp_path)
    parts.knowledge_bases.delete(kb.id)
    with pytest.raises(NotFound):
        run_stages(parts, run_id, "parse")


@pytest.mark.parametrize("built_with", [{"model": "text-embedding-3-small"}, {"store": "weaviate"}])
def test_a_worker_with_other_parts_than_the_knowledge_base_touches_nothing(
    built_with: dict[str, str], parts: Parts, tmp_path: Path
) -> None:
    """Vectors of its model, saved under the other's name, would spoil the cache for every knowledge base."""
    write(tmp_path, a="A text that nobody has embedded yet.")
    other = new_kb(parts, **built_with)
    run_id = started(parts, other, tmp_path)
    with pytest.raises(ModelMismatch):
        flow.run(run_id, parts)
    assert counts(parts, run_id) == {"queued": 1}


def test_what_was_tried_too_often_is_given_up_with_a_cause(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    write(tmp_path, a="Owls hunt at night.")
    run_id = started(parts, kb, tmp_path)
    for _ in range(3):
        assert parts.runs.wave(run_id, 10) == [0]
        parts.runs.take(run_id, [0])
    flow.run(run_id, parts)
    assert counts(parts, run_id) == {"failed": 1}
    ((_, cause),) = parts.runs.failures(run_id)
    assert cause["code"] == "InternalFault"
    assert "Given up" in cause["message"]


def test_after_a_crash_documents_are_tried_one_by_one(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    """A worker that died had all of the batch: the deadly document must not take the others with it."""
    write(tmp_path, a="Owls hunt at night.", b="Bats hunt at night.", c="Cats hunt at night.")
    run_id = started(parts, kb, tmp_path)
    parts.runs.take(run_id, [0, 1, 2])  # a first attempt that died
    parts.runs.take(run_id, [1])
    parts.runs.take(run_id, [1])  # and two more, on the second document alone
    flow.run(run_id, parts)
    assert counts(parts, run_id) == {"done": 2, "failed": 1}
    ((key, cause),) = parts.runs.failures(run_id)
    assert key.endswith("b.txt")
    assert cause["message"] == "Given up: the worker died 3 times while it had this document."


def test_an_error_in_good_order_counts_as_no_attempt(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    """A service that is down for long must not make its documents look deadly."""
    write(tmp_path, a="A text that no other test embeds: the service is down when it is first asked.")
    run_id = started(parts, kb, tmp_path)
    run_stages(parts, run_id, "parse", "chunk")
    broken = Parts(parts.settings.model_copy(update={"embed_timeout": 1.0}))
    broken.__dict__["embedder"] = Unreached()
    with contextlib.closing(broken):
        for _ in range(5):
            with pytest.raises(Unreachable):
                run_stages(broken, run_id, "embed")
    run_stages(parts, run_id, "embed", "upsert")
    assert counts(parts, run_id) == {"done": 1}


class Unreached:
    """An embedding service that is down."""

    model, dimensions = "wordllama-256", 256

    def embed(self, texts: Sequence[str], *, timeout: float) -> object:
        raise Unreachable("The service can't be reached.")


class Forgetful:
    """A cache that has lost its vectors."""

    def load(self, model: str, hashes: Sequence[str]) -> dict[str, Vector]:
        return {}


class Silent:
    """A store that takes everything."""

    def upsert(self, index: IndexRef, entries: Sequence[IndexEntry], *, timeout: float) -> None:
        """Take them."""


def test_a_chunk_without_a_vector_is_never_called_done(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    write(tmp_path, a="Owls hunt at night.")
    run_id = started(parts, kb, tmp_path)
    run_stages(parts, run_id, "parse", "chunk", "embed")
    with pytest.raises(InternalFault, match="1 of 1 chunks have no vector"):
        upsert(
            parts.runs.items(Batch(run_id=run_id, number=0), "embedded"),
            parts.runs.find(run_id),
            manifest=parts.runs,
            documents=parts.documents,
            vectors=Forgetful(),
            store=Silent(),  # type: ignore[arg-type]
            timeout=5,
        )
    assert live_chunks(parts, kb) == set()


def test_each_stage_is_a_file_with_one_function_of_its_name() -> None:
    for name in (*flow.STAGES, "finalize"):
        module = importlib.import_module(f"pipeline.ingest.{name}")
        assert getattr(module, name).__module__ == module.__name__


def test_the_context_of_a_chunk_is_searched_but_not_quoted(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    (tmp_path / "guide.md").write_text("# Zeppelins\n\n## Landing gear\n\nFold it before take-off.\n")
    ingest(parts, kb, tmp_path)
    assert any("Fold it" in text for text in found(parts, kb, "zeppelin gear"))
    contexts = scalars(parts, "SELECT context FROM chunks WHERE kb_id = :kb", kb=kb.id)
    assert all(context.count("Zeppelins") == 1 for context in contexts)
    execute(parts, "DELETE FROM knowledge_bases WHERE id = :kb", kb=kb.id)
