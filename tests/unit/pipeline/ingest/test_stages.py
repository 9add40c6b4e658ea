"""The stages of a run on real files, a real ledger and a real store."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InternalFault, ModelMismatch
from pipeline.ingest import flow
from pipeline.ingest.chunk import chunk_id
from pipeline.ingest.upsert import upsert
from pipeline.seams import EmbeddedPart
from pipeline.types import IndexEntry, IndexRef, KnowledgeBase, ParsedDocument, Vector
from pipeline.wiring import Parts
from tests.installation import (
    LONG,
    CountingEmbedder,
    claimed,
    consistent,
    counts,
    documents,
    execute,
    found,
    ingest,
    live_chunks,
    live_texts,
    manifest,
    run_stages,
    scalars,
    started,
    stored_chunks,
    with_,
    write,
)

# --------------------------------------------------------------------------- new, unchanged, changed


def test_new_documents_become_searchable(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    owls = f"Owls hunt at night {kb.id[:8]}."
    write(tmp_path, a=owls, b=f"{kb.id} was never embedded before. {LONG}")
    run_id = started(parts, kb, tmp_path)
    for stage in flow.STAGES:
        assert counts(parts, run_id) == {stage: 2}
        run_stages(parts, run_id, stage)
    progress = parts.runs.progress(run_id)
    made = progress.chunks
    assert made > 2
    assert 2 <= progress.embedded <= made  # other tests may have embedded the rest
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
    causes = {Path(failure.document).name: failure for failure in parts.runs.failures(run_id)}
    assert (causes["broken.pdf"].code, causes["gone.txt"].code) == ("ParseFailed", "UnreadableSource")
    assert all(cause.hint and cause.stage == "parse" for cause in causes.values())
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
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RecursionError("too\ndeep"), "InternalFault", "RecursionError: too deep"),
        (MemoryError(), "ParseFailed", "more memory than"),
        (ValueError("nul \x00 half \ud83d"), "InternalFault", "ValueError: nul"),
    ],
    ids=["RecursionError", "MemoryError", "ValueError"],
)
def test_whatever_a_parser_or_chunker_throws_is_the_fate_of_one_document(
    part: str, error: Exception, code: str, said: str, parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path, a="Owls hunt at night.")
    bad = Exploding(error)
    run_id = ingest(with_(parts, **{part: {"text": bad} if part == "parsers" else bad}), kb, tmp_path)
    assert counts(parts, run_id) == {"failed": 1}
    (cause,) = parts.runs.failures(run_id)
    assert cause.code == code
    assert said in cause.message
    assert "\n" not in cause.message


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


# --------------------------------------------------------------------------- vectors, contexts


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

    def embed_parts(self, texts: Sequence[str], *, timeout: float) -> Iterator[EmbeddedPart]:
        yield EmbeddedPart(first=0, vectors=tuple(np.ones(3, dtype=np.float32) for _ in texts))


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
            parts.batches.items(claimed(parts, run_id, "upsert")),
            parts.runs.find(run_id),
            documents=parts.documents,
            vectors=Forgetful(),
            store=Silent(),  # type: ignore[arg-type]
            timeout=5,
        )
    assert live_chunks(parts, kb) == set()


def test_the_context_of_a_chunk_is_searched_but_not_quoted(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    (tmp_path / "guide.md").write_text("# Zeppelins\n\n## Landing gear\n\nFold it before take-off.\n")
    ingest(parts, kb, tmp_path)
    assert any("Fold it" in text for text in found(parts, kb, "zeppelin gear"))
    contexts = scalars(parts, "SELECT context FROM chunks WHERE kb_id = :kb", kb=kb.id)
    assert all(context.count("Zeppelins") == 1 for context in contexts)
    execute(parts, "DELETE FROM knowledge_bases WHERE id = :kb", kb=kb.id)


def test_each_stage_is_a_file_with_one_function_of_its_name() -> None:
    for name in (*flow.STAGES, "finalize"):
        module = importlib.import_module(f"pipeline.ingest.{name}")
        assert getattr(module, name).__module__ == module.__name__
