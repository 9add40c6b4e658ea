"""What every vector store must do; each adapter runs all of it against a real server."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa

from pipeline.adapters.pgvector import PgvectorStore
from pipeline.adapters.postgres.engine import make_engine
from pipeline.adapters.weaviate import WeaviateStore
from pipeline.errors import CeleriacError, UpstreamError
from pipeline.seams import VectorStore
from pipeline.types import Hit, IndexEntry, IndexRef, Vector

DIMENSIONS = 16
WAIT = 30.0
DOCUMENT = str(uuid.uuid4())


def unit_vector(seed: int) -> Vector:
    values = np.random.default_rng(seed).standard_normal(DIMENSIONS)
    return (values / np.linalg.norm(values)).astype(np.float32)


def entry(number: int, keywords: str, *, vector: Vector | None = None) -> IndexEntry:
    return IndexEntry(
        chunk_id=chunk_id(number),
        document_id=DOCUMENT,
        generation=1,
        vector=unit_vector(number) if vector is None else vector,
        keywords=keywords,
    )


def chunk_id(number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.chunk_id for hit in hits]


def scores(hits: Sequence[Hit]) -> dict[str, float]:
    return {hit.chunk_id: hit.score for hit in hits}


@pytest.fixture
def index() -> IndexRef:
    """An index that no other test knows."""
    return IndexRef(kb_id=str(uuid.uuid4()), model="contract/test-model", dimensions=DIMENSIONS)


PLANETS = [
    entry(1, "Mercury orbits nearest the sun and has no moon"),
    entry(2, "Venus orbits between Mercury and Earth, hidden by clouds"),
    entry(3, "Jupiter carries a red storm larger than Earth"),
    entry(4, "Saturn wears rings of ice"),
]


class VectorStoreContract:
    """Inherited by one class per adapter, which provides the fixture ``store``."""

    @pytest.fixture
    def store(self) -> VectorStore:
        raise NotImplementedError

    # ------------------------------------------------------------------ vectors

    def test_the_nearest_vector_comes_first_with_its_cosine(self, store: VectorStore, index: IndexRef) -> None:
        store.upsert(index, PLANETS, timeout=WAIT)
        question = unit_vector(3) + 0.1 * unit_vector(1)

        hits = store.vector_search(index, question.astype(np.float32), 10, timeout=WAIT)

        assert ids(hits)[0] == chunk_id(3)
        expected = {e.chunk_id: float(question @ e.vector / np.linalg.norm(question)) for e in PLANETS}
        assert scores(hits) == pytest.approx(expected, abs=1e-3)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)

    def test_cosine_reaches_from_one_to_minus_one(self, store: VectorStore, index: IndexRef) -> None:
        store.upsert(index, [entry(1, "same"), entry(2, "opposite", vector=-unit_vector(1))], timeout=WAIT)

        hits = store.vector_search(index, unit_vector(1), 10, timeout=WAIT)

        assert scores(hits) == pytest.approx({chunk_id(1): 1.0, chunk_id(2): -1.0}, abs=1e-5)
        assert all(-1.0 <= hit.score <= 1.0 for hit in hits)

    def test_a_vector_with_nan_is_refused_and_nothing_is_written(self, store: VectorStore, index: IndexRef) -> None:
        broken = np.full(DIMENSIONS, np.nan, dtype=np.float32)

        with pytest.raises(CeleriacError) as caught:
            store.upsert(index, [entry(1, "whole"), entry(2, "broken", vector=broken)], timeout=WAIT)

        assert not caught.value.retryable
        assert list(store.chunk_ids(index, timeout=WAIT)) == []

    # ------------------------------------------------------------------ keywords

    def test_a_word_finds_the_chunks_that_hold_it_and_no_others(self, store: VectorStore, index: IndexRef) -> None:
        store.upsert(index, PLANETS, timeout=WAIT)

        assert set(ids(store.keyword_search(index, "mercury", 10, timeout=WAIT))) == {chunk_id(1), chunk_id(2)}
        assert ids(store.keyword_search(index, "STORM?", 10, timeout=WAIT)) == [chunk_id(3)]

    def test_keyword_scores_are_positive_and_descend(self, store: VectorStore, index: IndexRef) -> None:
        store.upsert(index, PLANETS, timeout=WAIT)

        found = [hit.score for hit in store.keyword_search(index, "mercury orbits earth", 10, timeout=WAIT)]

        assert len(found) == 3
        assert found == sorted(found, reverse=True)
        assert found[-1] > 0

    def test_the_rarer_word_weighs_more(self, store: VectorStore, index: IndexRef) -> None:
        common = [entry(n, f"common filler{n}") for n in range(8)]
        store.upsert(index, [*common, entry(9, "rare filler9")], timeout=WAIT)

        hits = store.keyword_search(index, "common rare", 10, timeout=WAIT)

        assert ids(hits)[0] == chunk_id(9)
        assert hits[0].score > 2 * hits[1].score

    def test_the_longer_of_two_chunks_with_the_word_scores_lower(self, store: VectorStore, index: IndexRef) -> None:
        short, long = entry(1, "whale song"), entry(2, "whale song " + " ".join(f"other{n}" for n in range(50)))
        store.upsert(index, [long, short], timeout=WAIT)

        assert ids(store.keyword_search(index, "whale", 10, timeout=WAIT)) == [short.chunk_id, long.chunk_id]

    def test_the_word_more_often_scores_higher_but_not_in_proportion(self, store: VectorStore, index: IndexRef) -> None:
        once, thrice = entry(1, "whale alpha beta gamma"), entry(2, "whale whale whale gamma")
        store.upsert(index, [once, thrice, entry(3, "delta delta delta delta")], timeout=WAIT)

        high, low = store.keyword_search(index, "whale", 10, timeout=WAIT)

        assert (high.chunk_id, low.chunk_id) == (thrice.chunk_id, once.chunk_id)
        assert low.score < high.score < 3 * low.score

    @pytest.mark.parametrize("text", ["", "   ", "the of and", "?!…", "zzzunknown", "\0"])
    def test_a_question_without_a_usable_word_finds_nothing(
        self, store: VectorStore, index: IndexRef, text: str
    ) -> None:
        store.upsert(index, PLANETS, timeout=WAIT)

        assert store.keyword_search(index, text, 10, timeout=WAIT) == []

    @pytest.mark.parametrize(
        ("keywords", "question"),
        [
            ("Übergrößenträger in Köln", "köln"),
            ("東京 タワー", "東京"),
            ("launch 🚀 countdown 👩‍🚀", "countdown"),
            ("before\0after words", "words"),
            ("it's 100% {odd} 'quoted' \\ \"text\" %s :name", "quoted"),
        ],
    )
    def test_any_text_can_be_kept_and_found(
        self, store: VectorStore, index: IndexRef, keywords: str, question: str
    ) -> None:
        store.upsert(index, [entry(1, keywords), entry(2, "something else")], timeout=WAIT)

        assert ids(store.keyword_search(index, question, 10, timeout=WAIT)) == [chunk_id(1)]

    def test_a_chunk_without_words_is_found_by_its_vector(self, store: VectorStore, index: IndexRef) -> None:
        store.upsert(index, [entry(1, ""), entry(2, "words")], timeout=WAIT)

        assert ids(store.vector_search(index, unit_vector(1), 1, timeout=WAIT)) == [chunk_id(1)]

    # ------------------------------------------------------------------ both branches

    @pytest.mark.parametrize("limit", [1, 2])
    def test_no_more_hits_than_the_limit(self, store: VectorStore, index: IndexRef, limit: int) -> None:
        store.upsert(index, PLANETS, timeout=WAIT)

        assert len(store.vector_search(index, unit_vector(1), limit, timeout=WAIT)) == limit
        assert len(store.keyword_search(index, "mercury earth storm rings", limit, timeout=WAIT)) == limit

    def test_one_knowledge_base_never_sees_another(self, store: VectorStore, index: IndexRef) -> None:
        other = IndexRef(kb_id=str(uuid.uuid4()), model=index.model, dimensions=index.dimensions)
        store.upsert(index, [entry(1, "shared words")], timeout=WAIT)
        store.upsert(other, [entry(2, "shared words"), entry(1, "shared words")], timeout=WAIT)

        store.delete(other, [chunk_id(1)], timeout=WAIT)

        assert ids(store.keyword_search(index, "shared", 10, timeout=WAIT)) == [chunk_id(1)]
        assert ids(store.vector_search(index, unit_vector(2), 10, timeout=WAIT)) == [chunk_id(1)]
        assert ids(store.keyword_search(other, "shared", 10, timeout=WAIT)) == [chunk_id(2)]
        assert list(store.chunk_ids(other, timeout=WAIT)) == [chunk_id(2)]

    def test_an_index_never_made_is_empty(self, store: VectorStore) -> None:
        nowhere = IndexRef(kb_id=str(uuid.uuid4()), model="never-made", dimensions=DIMENSIONS)

        assert store.vector_search(nowhere, unit_vector(1), 10, timeout=WAIT) == []
        assert store.keyword_search(nowhere, "anything", 10, timeout=WAIT) == []
        assert list(store.chunk_ids(nowhere, timeout=WAIT)) == []
        assert list(store.entries(nowhere, timeout=WAIT)) == []
        assert store.faults(nowhere, timeout=WAIT) == []
        store.mend(nowhere, timeout=WAIT)
        store.delete(nowhere, [chunk_id(1)], timeout=WAIT)
        store.drop(nowhere, timeout=WAIT)

    # ------------------------------------------------------------------ writing

    def test_writing_the_same_again_changes_nothing(self, store: VectorStore, index: IndexRef) -> None:
        store.upsert(index, PLANETS, timeout=WAIT)
        question = "mercury earth storm rings orbits"
        near = store.vector_search(index, unit_vector(2), 10, timeout=WAIT)
        matching = store.keyword_search(index, question, 10, timeout=WAIT)

        store.upsert(index, PLANETS, timeout=WAIT)
        store.upsert(index, PLANETS[:2], timeout=WAIT)

        assert sorted(store.chunk_ids(index, timeout=WAIT)) == sorted(e.chunk_id for e in PLANETS)
        assert store.vector_search(index, unit_vector(2), 10, timeout=WAIT) == near
        again = store.keyword_search(index, question, 10, timeout=WAIT)
        assert ids(again) == ids(matching)
        # Weaviate counts replaced objects into its idf until it compacts; for pgvector it is exact, see there.
        assert scores(again) == pytest.approx(scores(matching), rel=0.05)

    def test_a_replaced_chunk_is_found_by_its_new_words_and_vector_only(
        self, store: VectorStore, index: IndexRef
    ) -> None:
        store.upsert(index, PLANETS, timeout=WAIT)

        store.upsert(index, [entry(1, "Neptune blows supersonic winds", vector=unit_vector(99))], timeout=WAIT)

        assert ids(store.keyword_search(index, "neptune", 10, timeout=WAIT)) == [chunk_id(1)]
        assert ids(store.keyword_search(index, "mercury", 10, timeout=WAIT)) == [chunk_id(2)]
        [hit] = store.vector_search(index, unit_vector(99), 1, timeout=WAIT)
        assert hit.chunk_id == chunk_id(1)
        assert hit.score == pytest.approx(1.0, abs=1e-5)
        assert sorted(store.chunk_ids(index, timeout=WAIT)) == sorted(e.chunk_id for e in PLANETS)

    def test_of_two_entries_with_one_id_the_last_one_counts(self, store: VectorStore, index: IndexRef) -> None:
        store.upsert(index, [entry(1, "first"), entry(1, "second")], timeout=WAIT)

        assert store.keyword_search(index, "first", 10, timeout=WAIT) == []
        assert ids(store.keyword_search(index, "second", 10, timeout=WAIT)) == [chunk_id(1)]

    def test_deleted_chunks_are_gone_from_both_branches(self, store: VectorStore, index: IndexRef) -> None:
        store.upsert(index, PLANETS, timeout=WAIT)

        store.delete(index, [chunk_id(1), chunk_id(3), chunk_id(12345)], timeout=WAIT)
        store.delete(index, [chunk_id(1)], timeout=WAIT)

        left = {chunk_id(2), chunk_id(4)}
        assert set(store.chunk_ids(index, timeout=WAIT)) == left
        assert set(ids(store.vector_search(index, unit_vector(1), 10, timeout=WAIT))) == left
        assert ids(store.keyword_search(index, "mercury storm", 10, timeout=WAIT)) == [chunk_id(2)]

    def test_writing_and_deleting_nothing_is_no_error(self, store: VectorStore, index: IndexRef) -> None:
        store.upsert(index, [], timeout=WAIT)
        store.delete(index, [], timeout=WAIT)

        assert list(store.chunk_ids(index, timeout=WAIT)) == []

    def test_a_dropped_index_is_empty_and_can_be_filled_again(self, store: VectorStore, index: IndexRef) -> None:
        store.upsert(index, PLANETS, timeout=WAIT)

        store.drop(index, timeout=WAIT)

        assert store.keyword_search(index, "mercury", 10, timeout=WAIT) == []
        assert store.vector_search(index, unit_vector(1), 10, timeout=WAIT) == []
        store.drop(index, timeout=WAIT)
        store.upsert(index, PLANETS[:1], timeout=WAIT)
        assert ids(store.keyword_search(index, "mercury", 10, timeout=WAIT)) == [chunk_id(1)]

    def test_six_hundred_entries_go_in_one_call(self, store: VectorStore, index: IndexRef) -> None:
        entries = [entry(n, f"word{n} and a common one") for n in range(600)]

        store.upsert(index, entries, timeout=WAIT)

        assert sorted(store.chunk_ids(index, timeout=WAIT)) == sorted(e.chunk_id for e in entries)
        assert len(store.keyword_search(index, "common", 500, timeout=WAIT)) == 500
        assert len(store.vector_search(index, unit_vector(7), 500, timeout=WAIT)) == 500
        assert ids(store.keyword_search(index, "word417", 5, timeout=WAIT)) == [chunk_id(417)]

    def test_two_writers_of_overlapping_chunks_leave_what_one_would(self, store: VectorStore, index: IndexRef) -> None:
        entries = [entry(n, f"apple number{n}" + " pie" * (n % 7)) for n in range(120)]
        alone = IndexRef(kb_id=str(uuid.uuid4()), model=index.model, dimensions=index.dimensions)
        start = threading.Barrier(2, timeout=WAIT)

        def write(share: Sequence[IndexEntry]) -> None:
            start.wait()
            for first in range(0, len(share), 20):
                store.upsert(index, share[first : first + 20], timeout=WAIT)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(write, [entries[:90], entries[:29:-1]]))
        store.upsert(alone, entries, timeout=WAIT)

        assert sorted(store.chunk_ids(index, timeout=WAIT)) == sorted(e.chunk_id for e in entries)
        got = scores(store.keyword_search(index, "pie number42", 200, timeout=WAIT))
        expected = scores(store.keyword_search(alone, "pie number42", 200, timeout=WAIT))
        assert got == pytest.approx(expected, rel=0.05)

    # ------------------------------------------------------------------ looking into it

    def test_entries_come_in_the_order_of_their_ids_over_many_pages(self, store: VectorStore, index: IndexRef) -> None:
        """What ``fsck`` relies on: both sides are merged by id."""
        written = [entry(n, f"word{n}") for n in range(2300)]
        for first in range(0, len(written), 500):
            store.upsert(index, written[first : first + 500], timeout=WAIT)

        found = list(store.entries(index, timeout=WAIT))

        expected = sorted((e.chunk_id, e.document_id, e.generation, "") for e in written)
        assert [tuple(one) for one in found] == expected

    def test_a_chunk_has_one_entry_however_often_it_is_written(self, store: VectorStore, index: IndexRef) -> None:
        other = entry(1, "another").model_copy(update={"document_id": str(uuid.uuid4()), "generation": 7})
        store.upsert(index, [entry(1, "one"), entry(2, "two"), entry(1, "one again")], timeout=WAIT)
        for _ in range(3):
            store.upsert(index, [entry(1, "once more")], timeout=WAIT)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: store.upsert(index, [entry(1, "at once")], timeout=WAIT), range(8)))
        store.upsert(index, [other], timeout=WAIT)

        found = {one.chunk_id: one for one in store.entries(index, timeout=WAIT)}
        assert len(list(store.entries(index, timeout=WAIT))) == len(found) == 2
        assert (found[chunk_id(1)].document_id, found[chunk_id(1)].generation) == (other.document_id, 7)

    def test_what_was_written_has_no_faults_and_mending_it_changes_nothing(
        self, store: VectorStore, index: IndexRef
    ) -> None:
        store.upsert(index, PLANETS, timeout=WAIT)
        before = store.keyword_search(index, "mercury earth", 10, timeout=WAIT)

        assert store.faults(index, timeout=WAIT) == []
        store.mend(index, timeout=WAIT)

        assert store.keyword_search(index, "mercury earth", 10, timeout=WAIT) == before
        assert len(list(store.entries(index, timeout=WAIT))) == len(PLANETS)

    # ------------------------------------------------------------------ failing

    def test_too_little_time_raises_an_upstream_error_and_a_repetition_succeeds(
        self, store: VectorStore, index: IndexRef
    ) -> None:
        entries = [entry(n, "many words make work " * 20) for n in range(600)]

        with pytest.raises(UpstreamError) as caught:
            store.upsert(index, entries, timeout=0.001)
        store.upsert(index, entries, timeout=WAIT)

        assert caught.value.retryable
        assert "\n" not in caught.value.message
        assert len(set(store.chunk_ids(index, timeout=WAIT))) == 600

    def test_check_names_the_version(self, store: VectorStore) -> None:
        line = store.check(timeout=WAIT)

        assert any(character.isdigit() for character in line)
        assert "\n" not in line


@pytest.fixture(scope="module")
def postgres_engine(postgres_url: str) -> Iterator[sa.Engine]:
    engine = make_engine(postgres_url, pool=4, connect_timeout=5, statement_timeout=WAIT)
    yield engine
    engine.dispose()


@pytest.fixture
def pgvector_store(postgres_engine: sa.Engine) -> PgvectorStore:
    return PgvectorStore(postgres_engine)


class TestPgvector(VectorStoreContract):
    @pytest.fixture
    def store(self, pgvector_store: PgvectorStore) -> VectorStore:
        return pgvector_store


class TestWeaviate(VectorStoreContract):
    @pytest.fixture
    def store(self, weaviate_store: WeaviateStore) -> VectorStore:
        return weaviate_store
