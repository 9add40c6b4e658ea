"""``fsck`` against every store: each kind of damage is done on purpose, found, repaired, and gone."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.adapters.pgvector.tables import Tables
from pipeline.adapters.weaviate import WeaviateStore
from pipeline.adapters.weaviate.collection import DOCUMENT_ID, GENERATION, collection_name
from pipeline.errors import ModelMismatch, TimedOut, Unreachable
from pipeline.ingest import inspection
from pipeline.ingest.inspection import Findings
from pipeline.ingest.repair import Repaired, repair
from pipeline.seams import Embedder
from pipeline.types import IndexEntry, KnowledgeBase, RunOptions
from pipeline.wiring import Parts
from tests import weaviate_server
from tests.installation import (
    CountingEmbedder,
    execute,
    ingest,
    live_chunks,
    manifest,
    migrated_parts,
    new_kb,
    run_stages,
    scalars,
    stored_chunks,
    write,
)

WAIT = 30.0
STRANGER = str(uuid.uuid4())
FACTS = {
    "owls": "Owls hunt at night and see in the dark.",
    "rivers": "The river Volga flows into the Caspian Sea.",
    "bread": "Sourdough bread rises slowly overnight.",
    "moons": "Jupiter has ninety five moons, and Saturn has more.",
}


def inspect(parts: Parts, kb: KnowledgeBase, **changes: object) -> Findings:
    given = {"store": parts.store, "timeout": WAIT, **changes}
    return inspection.inspect(kb, ledger=parts.inspection, cache=parts.embeddings, **given)  # type: ignore[arg-type]


def mend(parts: Parts, kb: KnowledgeBase, embedder: Embedder | None = None) -> Repaired:
    return repair(
        kb,
        ledger=parts.inspection,
        store=parts.store,
        cache=parts.embeddings,
        embedder=embedder,
        knowledge_bases=parts.knowledge_bases,
        timeout=WAIT,
        embed_timeout=WAIT,
    )


def stranger(kb: KnowledgeBase, chunk_id: str, document: str = STRANGER, generation: int = 1) -> IndexEntry:
    vector = np.random.default_rng(uuid.UUID(chunk_id).int).standard_normal(kb.dimensions).astype(np.float32)
    return IndexEntry(
        chunk_id=chunk_id, document_id=document, generation=generation, vector=vector, keywords="stranger"
    )


def document_of(parts: Parts, kb: KnowledgeBase, name: str) -> str:
    [found] = scalars(
        parts, "SELECT id::text FROM documents WHERE kb_id = :kb AND key LIKE :key", kb=kb.id, key=f"%{name}%"
    )
    return found


def chunks_of(parts: Parts, document: str) -> list[str]:
    return scalars(
        parts, "SELECT id::text FROM chunks WHERE document_id = :id ORDER BY generation, ordinal", id=document
    )


class InspectionContract:
    """Inherited by one class per store, which provides the fixture ``parts``."""

    @pytest.fixture
    def parts(self) -> Parts:
        raise NotImplementedError

    @pytest.fixture
    def kb(self, parts: Parts, tmp_path: Path) -> Iterator[KnowledgeBase]:
        """Four documents, ingested."""
        kb = new_kb(parts, store=parts.settings.store_name)
        write(tmp_path / "facts", **FACTS)
        ingest(parts, kb, tmp_path / "facts")
        yield kb
        parts.store.drop(kb.index, timeout=WAIT)

    def assert_repaired(self, parts: Parts, kb: KnowledgeBase) -> None:
        """Clean, exactly what is live is stored, and there is nothing more to do."""
        assert inspect(parts, kb).clean, inspect(parts, kb)
        assert stored_chunks(parts, kb) == live_chunks(parts, kb)
        assert mend(parts, kb) == Repaired()

    # ------------------------------------------------------------------ nothing wrong

    def test_after_an_ingest_all_is_well(self, parts: Parts, kb: KnowledgeBase) -> None:
        found = inspect(parts, kb)

        assert found.clean
        assert (found.chunks, found.stored, found.pending) == (4, 4, 0)
        assert not found.lost

    def test_an_empty_knowledge_base_is_well(self, parts: Parts) -> None:
        found = inspect(parts, new_kb(parts, store=parts.settings.store_name))
        assert found.clean
        assert not found.lost

    def test_a_changed_document_leaves_nothing_behind(self, parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
        write(tmp_path / "facts", owls="Owls sleep by day.")
        ingest(parts, kb, tmp_path / "facts")
        self.assert_repaired(parts, kb)

    # ------------------------------------------------------------------ the store

    def test_a_missing_chunk_is_written_again_from_the_cache(self, parts: Parts, kb: KnowledgeBase) -> None:
        owl = chunks_of(parts, document_of(parts, kb, "owls"))[0]
        parts.store.delete(kb.index, [owl], timeout=WAIT)

        found = inspect(parts, kb)
        assert found.counts == {"missing": 1}
        assert found.examples["missing"][0].chunk_id == owl
        assert "owls" in found.examples["missing"][0].document
        assert (found.to_embed, found.lost) == (0, False)

        assert mend(parts, kb) == Repaired(written=1)
        self.assert_repaired(parts, kb)
        hits = parts.store.keyword_search(kb.index, "owls", 1, timeout=WAIT)
        assert [hit.chunk_id for hit in hits] == [owl]

    def test_what_the_cache_lacks_is_embedded_by_repair_alone(self, parts: Parts, kb: KnowledgeBase) -> None:
        hashes = scalars(
            parts,
            "DELETE FROM embeddings WHERE hash IN (SELECT embed_hash FROM chunks WHERE kb_id = :kb) "
            "RETURNING encode(hash, 'hex')",
            kb=kb.id,
        )
        execute(parts, "DELETE FROM embeddings WHERE encode(hash, 'hex') = ANY(:hashes)", hashes=hashes)
        parts.store.drop(kb.index, timeout=WAIT)
        embedder = CountingEmbedder(parts)

        found = inspect(parts, kb)
        assert (found.counts, found.to_embed, found.lost) == ({"missing": 4}, 4, True)
        with pytest.raises(ModelMismatch, match="4 texts have no vector"):
            mend(parts, kb)

        assert mend(parts, kb, embedder) == Repaired(written=4, embedded=4)
        assert len(embedder.texts) == 4
        self.assert_repaired(parts, kb)

    def test_a_store_that_lost_everything_is_told_and_filled_again(self, parts: Parts, kb: KnowledgeBase) -> None:
        parts.store.drop(kb.index, timeout=WAIT)

        found = inspect(parts, kb)
        assert found.lost
        assert (found.counts, found.chunks, found.stored) == ({"missing": 4}, 4, 0)

        mend(parts, kb)
        self.assert_repaired(parts, kb)

    def test_an_entry_whose_chunk_is_gone_is_an_orphan_and_deleted(self, parts: Parts, kb: KnowledgeBase) -> None:
        document = document_of(parts, kb, "bread")
        parts.store.upsert(kb.index, [stranger(kb, STRANGER)], timeout=WAIT)
        execute(parts, "DELETE FROM documents WHERE id = :id", id=document)
        parts.knowledge_bases.refresh_size(kb.id)

        found = inspect(parts, kb)
        assert found.counts == {"orphaned": 2}
        assert {example.document for example in found.examples["orphaned"]} == {STRANGER, document}

        assert mend(parts, kb) == Repaired(deleted=2)
        self.assert_repaired(parts, kb)

    def test_a_superseded_generation_is_deleted_with_its_rows(self, parts: Parts, kb: KnowledgeBase) -> None:
        document = document_of(parts, kb, "rivers")
        execute(parts, "UPDATE document_versions SET created_at = created_at WHERE document_id = :id", id=document)
        copy_version(parts, document, 1, 7)
        execute(parts, "UPDATE documents SET live_generation = 7 WHERE id = :id", id=document)
        new = chunks_of(parts, document)[-1]
        parts.store.upsert(kb.index, [stranger(kb, new, document, 7)], timeout=WAIT)

        found = inspect(parts, kb)
        assert found.counts == {"wrong_generation": 1, "leftover": 1}
        assert found.examples["wrong_generation"][0].detail == "generation 1, superseded"

        assert mend(parts, kb) == Repaired(deleted=1, forgotten=1)
        self.assert_repaired(parts, kb)
        assert chunks_of(parts, document) == [new]

    def test_a_newer_generation_that_nobody_will_finish_is_deleted(self, parts: Parts, kb: KnowledgeBase) -> None:
        document = document_of(parts, kb, "rivers")
        copy_version(parts, document, 1, 2)
        draft = chunks_of(parts, document)[-1]
        parts.store.upsert(kb.index, [stranger(kb, draft, document, 2)], timeout=WAIT)

        found = inspect(parts, kb)
        assert found.counts == {"wrong_generation": 1, "leftover": 1}
        assert found.examples["wrong_generation"][0].detail == "generation 2, abandoned"

        mend(parts, kb)
        self.assert_repaired(parts, kb)
        assert draft not in chunks_of(parts, document)

    @pytest.mark.parametrize(("document", "generation"), [(STRANGER, 1), (None, 9)], ids=["document", "generation"])
    def test_an_entry_that_names_another_document_or_generation_is_written_again(
        self, parts: Parts, kb: KnowledgeBase, document: str | None, generation: int
    ) -> None:
        own = document_of(parts, kb, "owls")
        chunk = chunks_of(parts, own)[0]
        parts.store.upsert(kb.index, [stranger(kb, chunk, document or own, generation)], timeout=WAIT)

        found = inspect(parts, kb)
        assert found.counts == {"mismatched": 1}
        assert f"generation {generation}" in found.examples["mismatched"][0].detail

        assert mend(parts, kb) == Repaired(written=1)
        self.assert_repaired(parts, kb)

    # ------------------------------------------------------------------ while runs go on

    def test_what_an_open_run_writes_is_pending_and_left_alone(
        self, parts: Parts, kb: KnowledgeBase, tmp_path: Path
    ) -> None:
        """A draft half way through its run: its rows are there, and some of its chunks are in the store."""
        document = document_of(parts, kb, "owls")
        write(tmp_path / "facts", owls="Owls can turn their heads very far.", cats="Cats sleep on books.")
        run_id = manifest(parts, kb, tmp_path / "facts")
        parts.runs.start(run_id)
        run_stages(parts, run_id, "parse", "chunk", "embed")
        draft = chunks_of(parts, document)[-1]
        parts.store.upsert(kb.index, [stranger(kb, draft, document, 2)], timeout=WAIT)

        found = inspect(parts, kb)
        assert found.clean
        assert found.pending == 1
        assert mend(parts, kb) == Repaired()
        assert draft in stored_chunks(parts, kb)

        run_stages(parts, run_id, "upsert")
        parts.runs.finish(run_id, "done")
        mend(parts, kb)
        self.assert_repaired(parts, kb)
        assert len(live_chunks(parts, kb)) == 5

    def test_what_a_run_replaced_a_moment_ago_is_its_own_to_remove(self, parts: Parts, kb: KnowledgeBase) -> None:
        document = document_of(parts, kb, "owls")
        run_id = str(uuid.uuid4())
        parts.runs.create(run_id, kb.id, RunOptions())
        copy_version(parts, document, 1, 2)
        parts.store.upsert(kb.index, [stranger(kb, chunks_of(parts, document)[-1], document, 2)], timeout=WAIT)
        parts.documents.switch([(document, 2)], kb.indexes)

        assert inspect(parts, kb).clean
        assert inspect(parts, kb).pending == 1
        parts.runs.cancel(run_id)
        assert inspect(parts, kb).counts == {"wrong_generation": 1, "leftover": 1}

    # ------------------------------------------------------------------ scale

    def test_a_thousand_differences_go_in_pages(self, parts: Parts, kb: KnowledgeBase) -> None:
        ids = [str(uuid.uuid4()) for _ in range(1100)]
        parts.store.upsert(kb.index, [stranger(kb, one) for one in ids], timeout=WAIT)
        told: list[tuple[str, int]] = []

        found = inspect(parts, kb, examples=10, on_progress=lambda what, count: told.append((what, count)))

        assert found.counts == {"orphaned": 1100}
        assert len(found.examples["orphaned"]) == 10
        assert len(told) == 2
        assert told[-1] == ("compared", 1104)
        assert mend(parts, kb).deleted == 1100
        self.assert_repaired(parts, kb)


def copy_version(parts: Parts, document: str, old: int, new: int) -> None:
    """A second generation of a document, as a run leaves it before it writes to the store."""
    execute(
        parts,
        """
        WITH version AS (
            INSERT INTO document_versions (document_id, generation, content_hash, title, text)
            SELECT document_id, :new, content_hash || :new, title, text FROM document_versions
            WHERE document_id = :id AND generation = :old
        )
        INSERT INTO chunks (id, kb_id, document_id, generation, ordinal, text, start_char, end_char, token_count,
            context, embed_hash)
        SELECT gen_random_uuid(), kb_id, document_id, :new, ordinal, text, start_char, end_char, token_count,
            context, embed_hash
        FROM chunks WHERE document_id = :id AND generation = :old
        """,
        id=document,
        old=old,
        new=new,
    )


@pytest.fixture(scope="module")
def pgvector_parts(postgres_url: str) -> Iterator[Parts]:
    parts = migrated_parts(DATABASE_URL=postgres_url, chunk_tokens=40)
    yield parts
    parts.close()


@pytest.fixture(scope="module")
def weaviate_parts(postgres_url: str, weaviate_address: tuple[str, str | None]) -> Iterator[Parts]:
    url, grpc_url = weaviate_address
    parts = migrated_parts(
        DATABASE_URL=postgres_url,
        WEAVIATE_URL=url,
        WEAVIATE_GRPC_URL=grpc_url,
        WEAVIATE_API_KEY=weaviate_server.CONFIGURED_API_KEY,
        chunk_tokens=40,
    )
    yield parts
    parts.close()


class TestPgvector(InspectionContract):
    @pytest.fixture
    def parts(self, pgvector_parts: Parts) -> Parts:
        return pgvector_parts

    # ------------------------------------------------------------------ Postgres itself

    def test_wrong_counts_are_counted_anew(self, parts: Parts, kb: KnowledgeBase) -> None:
        document = document_of(parts, kb, "owls")
        execute(parts, "UPDATE documents SET chunk_count = 5 WHERE id = :id", id=document)

        found = inspect(parts, kb)
        assert found.counts == {"wrong_count": 2}
        assert [one.detail for one in found.examples["wrong_count"]] == [
            "counted 5, has 1",
            "the knowledge base: counted 4, its documents have 8",
        ]

        assert mend(parts, kb) == Repaired(recounted=1)
        self.assert_repaired(parts, kb)

    @pytest.mark.parametrize("table", ["chunks", "document_versions"])
    def test_a_live_document_without_a_chunk_is_shown_as_failed_and_read_again(
        self, parts: Parts, kb: KnowledgeBase, tmp_path: Path, table: str
    ) -> None:
        document = document_of(parts, kb, "moons")
        execute(parts, f"DELETE FROM {table} WHERE document_id = :id", id=document)

        found = inspect(parts, kb)
        assert found.counts == {"orphaned": 1, "empty": 1}
        assert mend(parts, kb) == Repaired(deleted=1, withdrawn=1, forgotten=int(table == "chunks"))
        self.assert_repaired(parts, kb)
        [row] = parts.passages.documents(kb.id, status="failed")
        assert (row["id"], row["error"]["hint"]) == (document, "Ingest it again.")

        ingest(parts, kb, tmp_path / "facts")
        self.assert_repaired(parts, kb)
        assert len(live_chunks(parts, kb)) == 4

    def test_a_cancelled_run_loses_nothing_that_it_could_go_on_with(
        self, parts: Parts, kb: KnowledgeBase, tmp_path: Path
    ) -> None:
        """Without its drafts a resumed run would take the documents for overtaken, and skip them."""
        write(tmp_path / "facts", cats="Cats sleep on books.")
        run_id = manifest(parts, kb, tmp_path / "facts")
        parts.runs.start(run_id)
        parts.batches.open_lanes(run_id, lanes=1, size=8)
        run_stages(parts, run_id, "parse")
        parts.runs.cancel(run_id)

        assert inspect(parts, kb).clean
        mend(parts, kb)
        parts.runs.reopen(run_id)
        run_stages(parts, run_id, "chunk", "embed", "upsert")

        assert "Cats sleep on books." in parts.passages.texts(kb.id, list(live_chunks(parts, kb))).values()

    def test_a_draft_older_than_the_open_run_is_left_over(self, parts: Parts, kb: KnowledgeBase) -> None:
        document = document_of(parts, kb, "owls")
        copy_version(parts, document, 1, 2)
        parts.runs.create(str(uuid.uuid4()), kb.id, RunOptions())

        assert inspect(parts, kb).counts == {"leftover": 1}
        assert mend(parts, kb) == Repaired(forgotten=1)

    def test_a_store_that_does_not_answer_in_time_is_an_error(self, parts: Parts, kb: KnowledgeBase) -> None:
        """And no answer is not taken for an empty store."""
        keywords = Tables.of(kb.index).render("LOCK TABLE {keywords} IN ACCESS EXCLUSIVE MODE").decode()
        with parts.engine.begin() as connection:
            connection.exec_driver_sql(keywords)
            with pytest.raises(TimedOut):
                inspect(parts, kb, timeout=0.2)
        assert inspect(parts, kb).clean


class TestWeaviate(InspectionContract):
    @pytest.fixture
    def parts(self, weaviate_parts: Parts) -> Parts:
        return weaviate_parts

    def test_an_object_without_a_vector_is_written_again(self, parts: Parts, kb: KnowledgeBase) -> None:
        assert isinstance(parts.store, WeaviateStore)
        document = document_of(parts, kb, "owls")
        chunk = chunks_of(parts, document)[0]
        parts.store.delete(kb.index, [chunk], timeout=WAIT)
        with parts.store._connection.call(WAIT) as client:
            tenant = client.collections.use(collection_name(kb.index)).with_tenant(kb.id)
            tenant.data.insert({DOCUMENT_ID: document, GENERATION: 1}, uuid=chunk)

        found = inspect(parts, kb)
        assert found.counts == {"broken": 1}
        assert found.examples["broken"][0].detail == "no vector"

        assert mend(parts, kb) == Repaired(written=1)
        self.assert_repaired(parts, kb)

    def test_a_collection_that_is_gone_is_made_again(self, parts: Parts, tmp_path: Path) -> None:
        """By a process that had made it before; that of a model which no other test uses."""
        assert isinstance(parts.store, WeaviateStore)
        kb = new_kb(parts, store="weaviate")
        write(tmp_path / "facts", **FACTS)
        ingest(parts, kb, tmp_path / "facts")
        with parts.store._connection.call(WAIT) as client:
            client.collections.delete(collection_name(kb.index))

        assert inspect(parts, kb).lost
        mend(parts, kb)
        self.assert_repaired(parts, kb)

    def test_a_store_that_can_not_be_reached_is_an_error(self, parts: Parts, kb: KnowledgeBase) -> None:
        """And is not taken for one that lost everything."""
        nobody = WeaviateStore("http://127.0.0.1:1", grpc_url=None, api_key=None, connect_timeout=1)
        with pytest.raises(Unreachable):
            inspect(parts, kb, store=nobody)
