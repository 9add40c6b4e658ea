"""The audit that ends a trial of tests/chaos finds what is wrong, and nothing where all is well."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.types import KnowledgeBase
from pipeline.wiring import Parts
from tests.chaos import audit
from tests.chaos.corpus import Corpus
from tests.installation import execute, ingest, new_kb, scalars, stored_chunks

DAMAGE = {
    "UPDATE knowledge_bases SET chunk_count = chunk_count + 1 WHERE id = :kb": "counts",
    "UPDATE run_items SET status = 'failed' WHERE run_id = :run AND document_id = :document": "is failed",
    "UPDATE run_batches SET stage = 'upsert' WHERE run_id = :run": "is not over",
    "UPDATE chunks SET start_char = start_char + 1 WHERE document_id = :document": "no spans of its text",
    "DELETE FROM chunks WHERE document_id = :document AND ordinal = 0": "chunks in the store",
    "UPDATE document_versions SET text = text || '.' WHERE document_id = :document": "has another text",
    "INSERT INTO document_versions (document_id, generation, content_hash, title, text) "
    "SELECT document_id, 99, '', '', '' FROM document_versions WHERE document_id = :document": "2 generations",
    "UPDATE documents SET live_generation = NULL, status = 'failed' WHERE id = :document": "is failed and",
}
"""Statements that damage what was ingested, one upon the other, and words of what is then found."""


@dataclass(frozen=True)
class Ingested:
    corpus: Corpus
    kb: KnowledgeBase
    run_id: str
    document: str


@pytest.fixture
def ingested(parts: Parts, tmp_path: Path) -> Iterator[Ingested]:
    """A corpus in both of its states, ingested without any chaos."""
    corpus = Corpus(tmp_path / "docs", 60, seed=1)
    kb = new_kb(parts, audit.KB)
    corpus.write_first()
    ingest(parts, kb, *corpus.paths)
    corpus.write_all()
    run_id = ingest(parts, kb, *corpus.paths)
    key = next(key for key, text in corpus.earlier.items() if text != corpus.texts[key])
    (document,) = scalars(parts, "SELECT id::text FROM documents WHERE kb_id = :kb AND key = :key", kb=kb.id, key=key)
    yield Ingested(corpus, kb, run_id, document)
    execute(parts, "UPDATE knowledge_bases SET name = :name WHERE id = :kb", name=str(uuid.uuid4()), kb=kb.id)


def test_nothing_is_found_after_a_run_in_peace_and_each_damage_is(parts: Parts, ingested: Ingested) -> None:
    found = audit.findings(parts, ingested.run_id, ingested.corpus)
    assert found == []
    for statement, words in DAMAGE.items():
        values = {"document": ingested.document, "run": ingested.run_id, "kb": ingested.kb.id}
        execute(parts, statement, **{name: value for name, value in values.items() if f":{name}" in statement})
        more = audit.findings(parts, ingested.run_id, ingested.corpus)
        assert any(words in finding for finding in set(more) - set(found)), (statement, more)
        found = more


def test_a_chunk_that_the_store_lost_is_found_by_its_absence(parts: Parts, ingested: Ingested) -> None:
    lost = sorted(stored_chunks(parts, ingested.kb))[:2]
    parts.store.delete(ingested.kb.index, lost, timeout=10)
    found = audit.findings(parts, ingested.run_id, ingested.corpus)
    assert any("chunks in the store: 2 missing" in finding for finding in found), found


def test_what_a_chord_left_behind_is_found_in_redis(parts: Parts, environment: Mapping[str, str]) -> None:
    namespace = f"chaos-{uuid.uuid4().hex}"
    assert list(audit.left_in_redis(environment["REDIS_URL"], namespace)) == []
    parts.redis.set(f"{namespace}:celery-taskset-meta-1.t", 3)
    parts.redis.rpush(f"{namespace}:parse", "a message")
    try:
        assert audit.in_motion(environment["REDIS_URL"], namespace) == {f"{namespace}:parse": 1}
        (chord, queue) = sorted(audit.left_in_redis(environment["REDIS_URL"], namespace))
        assert "celery-taskset-meta-1.t" in chord
        assert "parse" in queue
    finally:
        parts.redis.delete(f"{namespace}:celery-taskset-meta-1.t", f"{namespace}:parse")
