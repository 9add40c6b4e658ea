from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import NotFound
from pipeline.types import KnowledgeBase
from pipeline.wiring import Parts
from tests.installation import LONG, ingest, live_chunks, new_kb, write


@pytest.fixture
def filled(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> KnowledgeBase:
    write(tmp_path, b="Bread rises.", a="Owls hunt at night.")
    (tmp_path / "empty.txt").write_text("")
    lines = [json.dumps({"_id": f"r{n}", "text": f"Record {n}."}) for n in range(2)]
    (tmp_path / "records.jsonl").write_text("\n".join(lines))
    ingest(parts, kb, tmp_path)
    return kb


def test_a_chunk_is_read_only_under_its_own_knowledge_base(parts: Parts, filled: KnowledgeBase) -> None:
    ids, other = sorted(live_chunks(parts, filled)), new_kb(parts)
    assert len(parts.passages.live(filled.id, ids)) == len(parts.passages.texts(filled.id, ids)) == 4
    assert parts.passages.live(other.id, ids) == parts.passages.texts(other.id, ids) == {}
    assert parts.passages.live(filled.id, []) == parts.passages.texts(filled.id, []) == {}


TWO_SECTIONS = f"# Tägliche 🧨 Flüsse\n\n{LONG}\n\n# Other rivers\n\n{LONG}\n"


def test_a_chunks_parent_is_an_exact_stretch_of_its_section(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    (tmp_path / "rivers.md").write_text(TWO_SECTIONS)
    ingest(parts, kb, tmp_path)
    live = parts.passages.live(kb.id, sorted(live_chunks(parts, kb)))
    found = parts.passages.parents(kb.id, list(live))
    assert found.keys() == live.keys()
    assert len(set(found.values())) == 2
    for chunk, parent in found.items():
        assert parent.text == TWO_SECTIONS[parent.start : parent.end]
        assert parent.start <= live[chunk].start < live[chunk].end <= parent.end
        assert ("Other" in parent.text) == (live[chunk].section == "Other rivers")


def test_where_no_parents_are_stored_a_chunk_is_its_own(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    write(tmp_path, long=LONG)
    without = Parts(parts.settings.model_copy(update={"parent_tokens": 0}))
    ingest(without, kb, tmp_path)
    without.close()
    ids = sorted(live_chunks(parts, kb))
    texts, places = parts.passages.texts(kb.id, ids), parts.passages.live(kb.id, ids)
    assert len(ids) > 1
    assert parts.passages.parents(kb.id, ids) == {
        chunk: (places[chunk].start, places[chunk].end, texts[chunk]) for chunk in ids
    }


def test_parents_are_those_of_the_live_generation_alone(parts: Parts, filled: KnowledgeBase, tmp_path: Path) -> None:
    before = live_chunks(parts, filled)
    write(tmp_path, a="Owls sleep by day.")
    ingest(parts, filled, tmp_path)
    after = live_chunks(parts, filled)
    assert before - after
    assert parts.passages.parents(filled.id, sorted(before)).keys() == before & after
    assert parts.passages.parents(new_kb(parts).id, sorted(after)) == parts.passages.parents(filled.id, []) == {}


def test_documents_are_listed_by_key_by_status_and_so_many(parts: Parts, filled: KnowledgeBase) -> None:
    def names(**how: object) -> list[str]:
        return [Path(row["key"]).name for row in parts.passages.documents(filled.id, **how)]  # type: ignore[arg-type]

    assert names() == ["a.txt", "b.txt", "empty.txt", "r0", "r1"]
    assert names(limit=2) == ["a.txt", "b.txt"]
    assert names(status="failed") == ["empty.txt"]
    assert parts.passages.documents(new_kb(parts).id) == []


def test_a_document_is_shown_by_id_key_or_file(parts: Parts, filled: KnowledgeBase, tmp_path: Path) -> None:
    shown = parts.passages.document(filled.id, str(tmp_path / "a.txt"))
    assert (shown["status"], shown["chunks"], shown["characters"]) == ("live", 1, len("Owls hunt at night."))
    assert parts.passages.document(filled.id, shown["id"]) == shown
    assert parts.passages.document(filled.id, "r1")["origin"] == str(tmp_path / "records.jsonl")


@pytest.mark.parametrize("name", ["nowhere", "", "' OR true --"])
def test_an_unknown_document_is_not_there(name: str, parts: Parts, filled: KnowledgeBase) -> None:
    with pytest.raises(NotFound):
        parts.passages.document(filled.id, name)


def test_a_file_of_many_records_is_no_one_document(parts: Parts, filled: KnowledgeBase, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="many documents"):
        parts.passages.document(filled.id, str(tmp_path / "records.jsonl"))


def test_a_document_of_another_knowledge_base_is_not_there(parts: Parts, filled: KnowledgeBase, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        parts.passages.document(new_kb(parts).id, str(tmp_path / "a.txt"))
