"""What only Weaviate does, on a real server: the facts that the adapter relies on."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection as Pipe
from uuid import uuid4

import numpy as np
import pytest
from weaviate import WeaviateClient

from pipeline.adapters.weaviate import WeaviateStore, connection, store
from pipeline.adapters.weaviate.collection import collection_name
from pipeline.errors import CeleriacError, ModelMismatch, RequestRejected, ServerFault
from pipeline.types import IndexEntry, IndexRef, Vector
from tests import weaviate_server

SECONDS = 10.0
DIMENSIONS = 4
EAST: Vector = np.array([1, 0, 0, 0], dtype=np.float32)
NORTH: Vector = np.array([0, 1, 0, 0], dtype=np.float32)


def new_index(model: str = "facts") -> IndexRef:
    return IndexRef(kb_id=str(uuid4()), model=model, dimensions=DIMENSIONS)


def entry(keywords: str = "apple", vector: Vector = EAST, chunk_id: str | None = None) -> IndexEntry:
    return IndexEntry(
        chunk_id=chunk_id or str(uuid4()), document_id="d", generation=1, vector=vector, keywords=keywords
    )


@pytest.fixture
def index(weaviate_store: WeaviateStore) -> Iterator[IndexRef]:
    """An index of its own, dropped afterwards."""
    one = new_index()
    yield one
    weaviate_store.drop(one, timeout=SECONDS)


@pytest.fixture
def own_model(weaviate_store: WeaviateStore) -> Iterator[IndexRef]:
    """An index of a model that nobody has seen, so without a collection; that is deleted afterwards."""
    one = new_index(model=f"facts-{uuid4()}")
    yield one
    with weaviate_store._connection.call(SECONDS) as client:
        client.collections.delete(collection_name(one))


class TestUpsert:
    def test_the_same_id_again_replaces_vector_keywords_and_counts(
        self, weaviate_store: WeaviateStore, index: IndexRef
    ) -> None:
        """BM25 scores are those of the last version alone: earlier ones are not counted as documents."""
        first, second = entry("apple pie"), entry("cherry pie")
        weaviate_store.upsert(index, [first, second], timeout=SECONDS)
        once = weaviate_store.keyword_search(index, "cherry", 5, timeout=SECONDS)
        for _ in range(5):
            weaviate_store.upsert(index, [entry("durian pie", NORTH, first.chunk_id)], timeout=SECONDS)
        assert weaviate_store.keyword_search(index, "apple", 5, timeout=SECONDS) == []
        assert weaviate_store.keyword_search(index, "cherry", 5, timeout=SECONDS) == once
        assert weaviate_store.vector_search(index, NORTH, 1, timeout=SECONDS)[0].chunk_id == first.chunk_id
        assert len(list(weaviate_store.chunk_ids(index, timeout=SECONDS))) == 2

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_vector_that_is_no_number_is_refused_and_nothing_is_written(
        self, weaviate_store: WeaviateStore, index: IndexRef, bad: float
    ) -> None:
        """Weaviate itself takes NaN without a word."""
        with pytest.raises(RequestRejected, match="NaN or infinity"):
            weaviate_store.upsert(index, [entry(), entry(vector=np.full_like(EAST, bad))], timeout=SECONDS)
        assert list(weaviate_store.chunk_ids(index, timeout=SECONDS)) == []

    def test_a_vector_of_another_length_is_refused_and_nothing_is_written(
        self, weaviate_store: WeaviateStore, index: IndexRef
    ) -> None:
        longer = np.ones(DIMENSIONS + 1, dtype=np.float32)
        with pytest.raises(ModelMismatch, match="5 dimensions, the index 4"):
            weaviate_store.upsert(index, [entry(), entry(vector=longer)], timeout=SECONDS)
        with pytest.raises(ModelMismatch):
            weaviate_store.vector_search(index, longer, 1, timeout=SECONDS)
        assert list(weaviate_store.chunk_ids(index, timeout=SECONDS)) == []

    def test_what_the_server_refuses_of_a_batch_is_an_error_with_count_and_cause(
        self, weaviate_store: WeaviateStore, index: IndexRef, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """insert_many only reports it; with our own check switched off, the server sees the bad vector."""
        monkeypatch.setattr(store, "_check_vector", lambda *_: None)
        longer = np.ones(DIMENSIONS + 1, dtype=np.float32)
        with pytest.raises(ServerFault, match=r"1 of 3 chunks were not written: .*vector"):
            weaviate_store.upsert(index, [entry(), entry(vector=longer), entry()], timeout=SECONDS)
        with pytest.raises(ServerFault, match=r"none of 2 chunks was written: .*vector"):
            weaviate_store.upsert(index, [entry(vector=longer), entry(vector=longer)], timeout=SECONDS)

    def test_text_that_utf8_cannot_carry_is_stored_and_searched_all_the_same(
        self, weaviate_store: WeaviateStore, index: IndexRef
    ) -> None:
        one = entry("apple \ud800 pie")
        weaviate_store.upsert(index, [one], timeout=SECONDS)
        hits = weaviate_store.keyword_search(index, "pie \udfff", 5, timeout=SECONDS)
        assert [hit.chunk_id for hit in hits] == [one.chunk_id]


class TestCollections:
    def test_many_workers_may_create_the_collection_at_once(
        self, weaviate_address: tuple[str, str | None], own_model: IndexRef
    ) -> None:
        url, grpc_url = weaviate_address
        key = weaviate_server.CONFIGURED_API_KEY
        stores = [WeaviateStore(url, grpc_url=grpc_url, api_key=key, connect_timeout=5) for _ in range(8)]
        with ThreadPoolExecutor(len(stores)) as pool:
            list(pool.map(lambda one: one.upsert(own_model, [entry()], timeout=SECONDS), stores))
        assert len(list(stores[0].chunk_ids(own_model, timeout=SECONDS))) == len(stores)
        for one in stores:
            one.close()

    def test_a_missing_collection_is_an_empty_index(self, weaviate_store: WeaviateStore, own_model: IndexRef) -> None:
        assert weaviate_store.vector_search(own_model, EAST, 5, timeout=SECONDS) == []
        assert weaviate_store.keyword_search(own_model, "apple", 5, timeout=SECONDS) == []
        assert list(weaviate_store.chunk_ids(own_model, timeout=SECONDS)) == []
        weaviate_store.delete(own_model, [str(uuid4())], timeout=SECONDS)
        weaviate_store.drop(own_model, timeout=SECONDS)

    def test_knowledge_bases_of_one_model_share_a_collection_and_nothing_else(
        self, weaviate_store: WeaviateStore, index: IndexRef
    ) -> None:
        other = new_index()
        mine, theirs = entry(), entry()
        weaviate_store.upsert(index, [mine], timeout=SECONDS)
        weaviate_store.upsert(other, [theirs], timeout=SECONDS)
        assert collection_name(index) == collection_name(other)
        weaviate_store.delete(index, [theirs.chunk_id], timeout=SECONDS)
        assert [hit.chunk_id for hit in weaviate_store.vector_search(other, EAST, 9, timeout=SECONDS)] == [
            theirs.chunk_id
        ]
        weaviate_store.drop(other, timeout=SECONDS)
        assert list(weaviate_store.chunk_ids(index, timeout=SECONDS)) == [mine.chunk_id]

    def test_a_collection_that_auto_schema_made_is_refused_by_name(
        self, weaviate_store: WeaviateStore, own_model: IndexRef
    ) -> None:
        """A write to a deleted collection recreates it without tenants: deleting and ingesting again mends it."""
        name = collection_name(own_model)
        weaviate_store.upsert(own_model, [entry()], timeout=SECONDS)
        with weaviate_store._connection.call(SECONDS) as client:
            client.collections.delete(name)
        with pytest.raises(CeleriacError):
            weaviate_store.upsert(own_model, [entry()], timeout=SECONDS)
        with pytest.raises(RequestRejected) as caught:
            weaviate_store.upsert(own_model, [entry()], timeout=SECONDS)
        assert caught.value.hint == f"Delete {name} in Weaviate and ingest again."
        with weaviate_store._connection.call(SECONDS) as client:
            client.collections.delete(name)
        weaviate_store.upsert(own_model, [entry()], timeout=SECONDS)
        assert len(list(weaviate_store.chunk_ids(own_model, timeout=SECONDS))) == 1

    def test_ids_come_page_by_page_and_each_once(
        self, weaviate_store: WeaviateStore, index: IndexRef, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store, "PAGE", 10)
        written = [entry() for _ in range(25)]
        weaviate_store.upsert(index, written, timeout=SECONDS)
        assert sorted(weaviate_store.chunk_ids(index, timeout=SECONDS)) == sorted(one.chunk_id for one in written)


class TestConnection:
    def test_many_threads_that_start_at_once_share_one_client(
        self, weaviate_store: WeaviateStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[WeaviateClient] = []
        monkeypatch.setattr(connection, "WeaviateClient", _remembering(made))
        with ThreadPoolExecutor(16) as pool:
            answers = set(pool.map(lambda _: weaviate_store.check(timeout=SECONDS), range(16)))
        assert len(answers) == 1
        assert len(made) == 1

    def test_a_forked_child_opens_its_own_client_and_leaves_the_parents_alone(
        self, weaviate_store: WeaviateStore, index: IndexRef
    ) -> None:
        one = entry()
        weaviate_store.upsert(index, [one], timeout=SECONDS)
        parents, childs = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=_search, args=(weaviate_store, index, childs))
        child.start()
        assert parents.poll(30), "the child gave no answer"
        assert parents.recv() == [one.chunk_id]
        child.join(10)
        assert child.exitcode == 0
        assert weaviate_store.vector_search(index, EAST, 1, timeout=SECONDS)[0].chunk_id == one.chunk_id

    def test_a_closed_store_opens_again_at_the_next_call(self, weaviate_store: WeaviateStore) -> None:
        weaviate_store.check(timeout=SECONDS)
        weaviate_store.close()
        assert weaviate_store.check(timeout=SECONDS).startswith("Weaviate ")

    def test_the_check_names_version_and_grpc(self, weaviate_store: WeaviateStore) -> None:
        line = weaviate_store.check(timeout=SECONDS)
        assert line.startswith("Weaviate 1.")
        assert line.endswith(", gRPC ok")


def _remembering(made: list[WeaviateClient]) -> Callable[..., WeaviateClient]:
    def make(**options: object) -> WeaviateClient:
        made.append(WeaviateClient(**options))  # type: ignore[arg-type]
        return made[-1]

    return make


def _search(one: WeaviateStore, index: IndexRef, answer: Pipe) -> None:
    answer.send([hit.chunk_id for hit in one.vector_search(index, EAST, 5, timeout=SECONDS)])
    one.close()
