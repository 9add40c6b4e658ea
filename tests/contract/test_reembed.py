"""Another embedding model for a knowledge base, in every store: built beside the old one, switched to, gone back to."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Busy, Conflict, NotFound, ServerFault
from pipeline.ingest import flow
from pipeline.ingest.reembed import abandon, forget_previous
from pipeline.ingest.removal import remove
from pipeline.ingest.upsert import upsert
from pipeline.seams import VectorStore
from pipeline.types import Batch, IndexRef, KnowledgeBase
from pipeline.wiring import Parts
from tests import weaviate_server
from tests.installation import (
    DIMENSIONS,
    EMBEDDER,
    counts,
    execute,
    found,
    ingest,
    live_chunks,
    live_texts,
    manifest,
    migrated_parts,
    new_kb,
    reembed,
    run_stages,
    scalars,
    started,
    with_,
    write,
)
from tests.standin.fixture import StandInProcess

WAIT = 30.0
MODEL, SIZE = "text-embedding-3-small", 128
FACTS = {
    "owls": "Owls hunt at night and see in the dark.",
    "rivers": "The river Volga flows into the Caspian Sea.",
    "bread": "Sourdough bread rises slowly overnight.",
}


def now(parts: Parts, kb: KnowledgeBase) -> KnowledgeBase:
    return parts.knowledge_bases.find(kb.tenant, kb.name)


def target_of(kb: KnowledgeBase) -> IndexRef:
    return IndexRef(kb_id=kb.id, model=MODEL, dimensions=SIZE)


def ids_in(parts: Parts, index: IndexRef) -> set[str]:
    return set(parts.store.chunk_ids(index, timeout=WAIT))


def changed(parts: Parts, kb: KnowledgeBase) -> str:
    """A change to the other model, from start to end."""
    run_id = reembed(parts, kb, MODEL, SIZE)
    flow.run(run_id, parts)
    return run_id


def begun(parts: Parts, kb: KnowledgeBase) -> str:
    """A run that builds the index for the other model, and that nobody works on yet."""
    return reembed(parts, kb, MODEL, SIZE)


def document_of(parts: Parts, kb: KnowledgeBase, name: str) -> str:
    [one] = scalars(
        parts, "SELECT id::text FROM documents WHERE kb_id = :kb AND key LIKE :key", kb=kb.id, key=f"%{name}%"
    )
    return one


class Meanwhile:
    """A store in which something else happens just before the first write to an index."""

    def __init__(self, store: VectorStore, index: IndexRef, happens: Any) -> None:
        self._store, self._index, self._happens = store, index, happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def upsert(self, index: IndexRef, *arguments: Any, **named: Any) -> None:
        if index == self._index and self._happens is not None:
            happens, self._happens = self._happens, None
            happens()
        self._store.upsert(index, *arguments, **named)


class ReembedContract:
    """Inherited by one class per store, which provides the fixture ``parts``."""

    @pytest.fixture
    def parts(self) -> Parts:
        raise NotImplementedError

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        write(tmp_path / "facts", **FACTS)
        return tmp_path / "facts"

    @pytest.fixture
    def kb(self, parts: Parts, folder: Path) -> Iterator[KnowledgeBase]:
        """Three documents, ingested with the offline model."""
        kb = new_kb(parts, store=parts.settings.store_name)
        ingest(parts, kb, folder)
        yield kb
        for index in (kb.index, target_of(kb)):
            parts.store.drop(index, timeout=WAIT)

    def assert_same(self, parts: Parts, *indexes: IndexRef) -> None:
        """Each of the indexes holds what is live, and nothing else."""
        kb_id = indexes[0].kb_id
        live = set(
            scalars(
                parts,
                "SELECT c.id::text FROM chunks c JOIN documents d ON d.id = c.document_id "
                "AND d.live_generation = c.generation WHERE d.kb_id = :kb",
                kb=kb_id,
            )
        )
        assert [ids_in(parts, index) for index in indexes] == [live] * len(indexes)

    # ------------------------------------------------------------------ the change

    def test_questions_are_answered_from_the_new_index_and_the_old_one_is_kept(
        self, parts: Parts, kb: KnowledgeBase
    ) -> None:
        run_id = changed(parts, kb)

        after = now(parts, kb)
        assert parts.runs.find(run_id).status == "done"
        assert counts(parts, run_id) == {"done": 3}
        assert (after.index, after.building, after.previous) == (target_of(kb), None, kb.index)
        self.assert_same(parts, kb.index, after.index)
        [vector] = parts.embedder_for(after).embed(["owls at night"], timeout=WAIT).vectors
        assert len(parts.store.vector_search(after.index, vector, 3, timeout=WAIT)) == 3
        assert "Owls" in found(parts, kb, "owls")[0]

    def test_until_the_switch_the_old_index_answers(self, parts: Parts, kb: KnowledgeBase) -> None:
        run_id = begun(parts, kb)
        run_stages(parts, run_id, "embed", "upsert")
        during = now(parts, kb)
        assert (during.index, during.building, during.previous) == (kb.index, target_of(kb), None)
        assert "Owls" in found(parts, kb, "owls")[0]
        self.assert_same(parts, kb.index, target_of(kb))

    def test_who_asked_before_the_switch_is_answered_from_the_old_index(self, parts: Parts, kb: KnowledgeBase) -> None:
        [vector] = parts.embedder_for(kb).embed(["owls at night"], timeout=WAIT).vectors
        changed(parts, kb)
        assert len(parts.store.vector_search(kb.index, vector, 3, timeout=WAIT)) == 3

    # ------------------------------------------------------------------ while it goes on

    def test_what_is_ingested_and_deleted_meanwhile_is_so_in_both(
        self, parts: Parts, kb: KnowledgeBase, folder: Path
    ) -> None:
        run_id = begun(parts, kb)
        write(folder, owls="Owls sleep by day.", moons="Jupiter has ninety five moons.")
        (folder / "rivers.txt").unlink()
        other = ingest(parts, kb, folder, prune=True)
        assert parts.runs.find(other).pruned == 1

        flow.run(run_id, parts)

        assert counts(parts, run_id) == {"done": 2, "unchanged": 1}
        assert now(parts, kb).index == target_of(kb)
        self.assert_same(parts, kb.index, target_of(kb))
        assert "Owls sleep by day." in live_texts(parts, kb)

    def test_a_document_replaced_while_it_is_written_leaves_nothing_old(
        self, parts: Parts, kb: KnowledgeBase, folder: Path
    ) -> None:
        run_id = begun(parts, kb)
        run_stages(parts, run_id, "embed")
        write(folder, owls="Owls sleep by day.")
        store = Meanwhile(parts.store, target_of(kb), lambda: ingest(parts, kb, folder))
        run_stages(with_(parts, store=store), run_id, "upsert")
        self.assert_same(parts, kb.index, target_of(kb))

    def test_a_stage_that_knew_only_the_old_index_makes_nothing_live(
        self, parts: Parts, kb: KnowledgeBase, folder: Path
    ) -> None:
        """Its run was cancelled, so the change could begin; its last stage has not heard of that yet."""
        write(folder, moons="Jupiter has ninety five moons.")
        late = started(parts, kb, folder)
        run_stages(parts, late, "parse", "chunk", "embed")
        stale = parts.runs.find(late)
        lease = parts.batches.claim(Batch(run_id=late, number=0), "upsert", str(uuid.uuid4()))
        assert lease is not None
        items = parts.batches.items(lease)
        parts.runs.cancel(late)
        run_id = begun(parts, kb)

        def stale_upsert() -> None:
            upsert(items, stale, documents=parts.documents, vectors=parts.embeddings, store=parts.store, timeout=WAIT)

        with pytest.raises(Busy):
            stale_upsert()
        assert len(live_chunks(parts, kb)) == 3
        flow.run(run_id, parts)
        with pytest.raises(Busy):
            stale_upsert()

        parts.batches.release(lease)
        parts.runs.reopen(late)
        flow.run(late, parts)  # embeds for the index that its stage embed did not know
        assert counts(parts, late) == {"done": 1, "unchanged": 3}
        assert "Jupiter has ninety five moons." in live_texts(parts, kb)
        self.assert_same(parts, now(parts, kb).index)

    def test_what_the_run_has_missed_is_added_and_what_is_dead_goes_before_the_switch(
        self, parts: Parts, kb: KnowledgeBase
    ) -> None:
        run_id = begun(parts, kb)
        run_stages(parts, run_id, "embed", "upsert")
        [lost, *_] = sorted(live_chunks(parts, kb))
        parts.store.delete(target_of(kb), [lost], timeout=WAIT)
        execute(parts, "DELETE FROM documents WHERE id = :id", id=document_of(parts, kb, "bread"))
        flow.run(run_id, parts)
        self.assert_same(parts, now(parts, kb).index)
        assert now(parts, kb).index == target_of(kb)

    # ------------------------------------------------------------------ when it fails

    def test_a_failed_document_keeps_the_old_index_until_it_is_tried_again(
        self, parts: Parts, kb: KnowledgeBase
    ) -> None:
        run_id = begun(parts, kb)
        flow.give_up("embed", Batch(run_id=run_id, number=0), ServerFault("It is down."), parts)
        flow.run(run_id, parts)

        run = parts.runs.find(run_id)
        assert run.status == "failed"
        assert run.error is not None
        assert f"runs retry {run_id}" in run.error["hint"]
        assert now(parts, kb).index == kb.index
        assert {row["error"] for row in parts.passages.documents(kb.id)} == {None}  # nothing is wrong with them

        assert parts.runs.requeue(run_id) == 3
        flow.run(run_id, parts)
        assert now(parts, kb).index == target_of(kb)
        self.assert_same(parts, target_of(kb))

    def test_a_cancelled_change_goes_on_where_it_was(self, parts: Parts, kb: KnowledgeBase) -> None:
        run_id = begun(parts, kb)
        run_stages(parts, run_id, "embed")
        parts.runs.cancel(run_id)
        assert now(parts, kb).building == target_of(kb)
        assert parts.runs.reopen(run_id) == 3
        flow.run(run_id, parts)
        assert now(parts, kb).index == target_of(kb)

    def test_beginning_again_builds_only_what_is_lacking(self, parts: Parts, kb: KnowledgeBase) -> None:
        run_id = begun(parts, kb)
        run_stages(parts, run_id, "embed", "upsert")
        parts.runs.cancel(run_id)
        parts.store.delete(target_of(kb), [sorted(live_chunks(parts, kb))[0]], timeout=WAIT)
        again = changed(parts, kb)
        assert counts(parts, again) == {"done": 1}
        self.assert_same(parts, now(parts, kb).index)

    def test_a_run_that_ends_twice_switches_once(self, parts: Parts, kb: KnowledgeBase) -> None:
        run_id = changed(parts, kb)
        flow.end(run_id, parts)
        assert not parts.indexes.switch(run_id, target_of(kb))
        assert parts.runs.find(run_id).status == "done"
        assert now(parts, kb).previous == kb.index

    # ------------------------------------------------------------------ giving up, going back

    def test_what_is_given_up_is_freed_and_can_not_go_on(self, parts: Parts, kb: KnowledgeBase, folder: Path) -> None:
        run_id = begun(parts, kb)
        run_stages(parts, run_id, "embed", "upsert")
        given_up = abandon(now(parts, kb), indexes=parts.indexes, store=parts.store, timeout=WAIT)
        assert given_up == target_of(kb)
        assert parts.runs.find(run_id).status == "cancelled"
        assert now(parts, kb) == kb.model_copy(
            update={"chunks": now(parts, kb).chunks, "revision": now(parts, kb).revision}
        )
        assert ids_in(parts, target_of(kb)) == set()
        with pytest.raises(Conflict, match="given up"):
            parts.runs.reopen(run_id)
        write(folder, moons="Jupiter has ninety five moons.")
        ingest(parts, kb, folder)
        assert ids_in(parts, target_of(kb)) == set()
        with pytest.raises(Conflict, match="being built"):
            abandon(now(parts, kb), indexes=parts.indexes, store=parts.store, timeout=WAIT)

    def test_a_stage_that_writes_after_it_was_given_up_takes_it_back(self, parts: Parts, kb: KnowledgeBase) -> None:
        run_id = begun(parts, kb)
        run_stages(parts, run_id, "embed")

        def give_up() -> None:
            abandon(now(parts, kb), indexes=parts.indexes, store=parts.store, timeout=WAIT)

        store = Meanwhile(parts.store, target_of(kb), give_up)
        with pytest.raises(Exception, match="given up"):
            run_stages(with_(parts, store=store), run_id, "upsert")
        assert ids_in(parts, target_of(kb)) == set()

    def test_going_back_writes_only_what_has_changed_since(self, parts: Parts, kb: KnowledgeBase, folder: Path) -> None:
        changed(parts, kb)
        write(folder, owls="Owls sleep by day.")
        (folder / "rivers.txt").unlink()
        ingest(parts, kb, folder, prune=True)

        back = reembed(parts, kb, EMBEDDER, DIMENSIONS)
        flow.run(back, parts)

        assert counts(parts, back) == {"done": 1}
        after = now(parts, kb)
        assert (after.index, after.building, after.previous) == (kb.index, None, target_of(kb))
        self.assert_same(parts, after.index)
        assert found(parts, kb, "owls") == ["Owls sleep by day."]

    def test_going_back_at_once_writes_nothing(self, parts: Parts, kb: KnowledgeBase) -> None:
        changed(parts, kb)
        back = reembed(parts, kb, EMBEDDER, DIMENSIONS)
        flow.run(back, parts)
        assert counts(parts, back) == {}
        assert now(parts, kb).index == kb.index
        self.assert_same(parts, kb.index, target_of(kb))

    def test_giving_up_the_way_back_keeps_the_previous_index(self, parts: Parts, kb: KnowledgeBase) -> None:
        changed(parts, kb)
        reembed(parts, kb, EMBEDDER, DIMENSIONS)
        with pytest.raises(Conflict, match="going back"):
            forget_previous(now(parts, kb), indexes=parts.indexes, store=parts.store, timeout=WAIT)
        abandon(now(parts, kb), indexes=parts.indexes, store=parts.store, timeout=WAIT)
        assert now(parts, kb).previous == kb.index
        self.assert_same(parts, kb.index, target_of(kb))

    def test_what_is_deleted_leaves_the_previous_index_too(self, parts: Parts, kb: KnowledgeBase) -> None:
        changed(parts, kb)
        owls = document_of(parts, kb, "owls")
        indexes = now(parts, kb).all_indexes
        assert indexes == (target_of(kb), kb.index)
        remove([owls], indexes, documents=parts.documents, store=parts.store, timeout=WAIT)
        assert len(live_chunks(parts, kb)) == 2
        self.assert_same(parts, kb.index, target_of(kb))

    def test_the_previous_index_is_freed(self, parts: Parts, kb: KnowledgeBase) -> None:
        changed(parts, kb)
        freed = forget_previous(now(parts, kb), indexes=parts.indexes, store=parts.store, timeout=WAIT)
        assert freed == kb.index
        assert ids_in(parts, kb.index) == set()
        assert now(parts, kb).previous is None
        with pytest.raises(Conflict, match="no previous"):
            forget_previous(now(parts, kb), indexes=parts.indexes, store=parts.store, timeout=WAIT)

    # ------------------------------------------------------------------ what is refused

    def test_no_change_begins_to_the_model_that_answers(self, parts: Parts, kb: KnowledgeBase) -> None:
        with pytest.raises(Conflict, match="already"):
            parts.indexes.begin(str(uuid.uuid4()), kb.index)

    def test_no_change_begins_while_a_run_is_open(self, parts: Parts, kb: KnowledgeBase, folder: Path) -> None:
        run_id = manifest(parts, kb, folder)
        with pytest.raises(Conflict, match=run_id):
            parts.indexes.begin(str(uuid.uuid4()), target_of(kb))
        assert now(parts, kb).building is None

    def test_no_change_begins_beside_another_one(self, parts: Parts, kb: KnowledgeBase) -> None:
        other = target_of(kb).model_copy(update={"dimensions": SIZE * 2})
        parts.runs.cancel(begun(parts, kb))
        with pytest.raises(Conflict, match="half built"):
            parts.indexes.begin(str(uuid.uuid4()), other)
        changed(parts, kb)
        with pytest.raises(Conflict, match="keeps its index"):
            parts.indexes.begin(str(uuid.uuid4()), other)

    def test_no_change_begins_where_there_is_no_knowledge_base(self, parts: Parts, kb: KnowledgeBase) -> None:
        gone = target_of(kb).model_copy(update={"kb_id": str(uuid.uuid4())})
        with pytest.raises(NotFound):
            parts.indexes.begin(str(uuid.uuid4()), gone)


@pytest.fixture(scope="module")
def models(standin_process: StandInProcess) -> dict[str, object]:
    """New knowledge bases get the offline model; any other one is the stand-in's."""
    standin_process.reset()
    return {
        "OPENAI_BASE_URL": standin_process.url,
        "OPENAI_API_KEY": "test",
        "embedding_model": EMBEDDER,
        "chat_model": "extractive",
        "chunk_tokens": 40,
    }


@pytest.fixture(scope="module")
def pgvector_parts(postgres_url: str, models: dict[str, object]) -> Iterator[Parts]:
    parts = migrated_parts(DATABASE_URL=postgres_url, **models)
    yield parts
    parts.close()


@pytest.fixture(scope="module")
def weaviate_parts(
    postgres_url: str, models: dict[str, object], weaviate_address: tuple[str, str | None]
) -> Iterator[Parts]:
    url, grpc_url = weaviate_address
    key = weaviate_server.CONFIGURED_API_KEY
    parts = migrated_parts(
        DATABASE_URL=postgres_url, WEAVIATE_URL=url, WEAVIATE_GRPC_URL=grpc_url, WEAVIATE_API_KEY=key, **models
    )
    yield parts
    parts.close()


class TestPgvector(ReembedContract):
    @pytest.fixture
    def parts(self, pgvector_parts: Parts) -> Parts:
        return pgvector_parts


class TestWeaviate(ReembedContract):
    @pytest.fixture
    def parts(self, weaviate_parts: Parts) -> Parts:
        return weaviate_parts
