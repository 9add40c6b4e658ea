"""What only the store over Postgres promises, against a real server."""

from __future__ import annotations

import json
import math
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors

from pipeline.adapters.pgvector import PgvectorStore, maintenance
from pipeline.adapters.pgvector.session import _explained, search, transaction
from pipeline.adapters.pgvector.tables import Tables
from pipeline.adapters.postgres.engine import make_engine
from pipeline.errors import BadSettings, RequestRejected, TimedOut, Unreachable
from pipeline.types import Hit, IndexEntry, IndexRef, Vector

DIMENSIONS = 8
WAIT = 30.0
WORDS = ["ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan", "willow", "yew"]


@pytest.fixture(scope="module")
def engine(postgres_url: str) -> Iterator[sa.Engine]:
    engine = make_engine(postgres_url, pool=4, connect_timeout=5, statement_timeout=WAIT)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: sa.Engine) -> PgvectorStore:
    return PgvectorStore(engine)


@pytest.fixture
def index() -> IndexRef:
    return make_index()


def make_index(dimensions: int = DIMENSIONS, model: str = "unit") -> IndexRef:
    return IndexRef(kb_id=str(uuid.uuid4()), model=model, dimensions=dimensions)


def vectors(count: int, dimensions: int = DIMENSIONS, seed: int = 0) -> list[Vector]:
    return list(np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32))


def entries(texts: Sequence[str], *, dimensions: int = DIMENSIONS, seed: int = 0) -> list[IndexEntry]:
    return [
        IndexEntry(
            chunk_id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{seed}/{n}")),
            document_id=str(uuid.uuid5(uuid.NAMESPACE_DNS, str(n // 3))),
            generation=1,
            vector=vector,
            keywords=text,
        )
        for n, (text, vector) in enumerate(zip(texts, vectors(len(texts), dimensions, seed), strict=True))
    ]


def forest(count: int, seed: int = 1) -> list[str]:
    """Texts of very different lengths over few words."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, weights=range(1, 14), k=chance.randint(1, 60))) for _ in range(count)]


def expected_bm25(written: Sequence[IndexEntry], question: str) -> dict[str, float]:
    """Robertson's formula with the idf of Lucene, straight from the texts."""
    bags = {e.chunk_id: Counter(e.keywords.split()) for e in written}
    average = sum(bag.total() for bag in bags.values()) / len(bags)
    result: dict[str, float] = {}
    for chunk_id, bag in bags.items():
        score = 0.0
        for word in question.split():
            df = sum(word in other for other in bags.values())
            idf = math.log(1 + (len(bags) - df + 0.5) / (df + 0.5))
            score += idf * bag[word] * 2.2 / (bag[word] + 1.2 * (0.25 + 0.75 * bag.total() / average))
        if score > 0:
            result[chunk_id] = score
    return result


def as_scores(hits: Sequence[Hit]) -> dict[str, float]:
    return {hit.chunk_id: hit.score for hit in hits}


def counted(engine: sa.Engine, index: IndexRef) -> tuple[object, dict[int, int]]:
    """The statistics, summed: (chunks, length), and the number of chunks by term."""
    tables, parameters = Tables.of(index), {"kb": index.kb_id}
    size = "SELECT coalesce(sum(chunks), 0)::int8, coalesce(sum(length), 0)::int8 FROM {corpus} WHERE kb_id = %(kb)s"
    terms = "SELECT term, sum(delta)::int8 FROM {counts} WHERE kb_id = %(kb)s GROUP BY term HAVING sum(delta) <> 0"
    [row] = search(engine, tables.render(size), parameters, timeout=WAIT)
    return row, dict(search(engine, tables.render(terms), parameters, timeout=WAIT))


# --------------------------------------------------------------------------- keywords


def test_scores_are_those_of_bm25(store: PgvectorStore, index: IndexRef) -> None:
    written = entries(forest(200))
    store.upsert(index, written, timeout=WAIT)

    hits = store.keyword_search(index, "yew ash elm", 200, timeout=WAIT)

    assert as_scores(hits) == pytest.approx(expected_bm25(written, "yew ash elm"), rel=1e-4)


@pytest.mark.parametrize("order", ["short first", "long first"])
def test_the_order_of_writing_hardly_moves_the_scores(store: PgvectorStore, index: IndexRef, order: str) -> None:
    """The average length drifts by a factor of several while documents arrive, sorted by length."""
    written = sorted(entries(forest(300)), key=lambda e: len(e.keywords), reverse=order == "long first")
    for first in range(0, len(written), 10):
        store.upsert(index, written[first : first + 10], timeout=WAIT)

    hits = store.keyword_search(index, "yew ash elm", 300, timeout=WAIT)

    assert as_scores(hits) == pytest.approx(expected_bm25(written, "yew ash elm"), rel=maintenance.DRIFT - 1)


def test_words_are_stemmed_in_the_language_given(engine: sa.Engine, index: IndexRef) -> None:
    german = PgvectorStore(engine, language="german")
    german.upsert(index, entries(["Die Häuser am Fluss"]), timeout=WAIT)

    assert len(german.keyword_search(index, "haus", 5, timeout=WAIT)) == 1


def test_a_language_postgres_has_not_is_bad_settings(engine: sa.Engine, index: IndexRef) -> None:
    with pytest.raises(BadSettings, match="klingon"):
        PgvectorStore(engine, language="klingon").upsert(index, entries(["nuqneH"]), timeout=WAIT)


def test_a_text_of_more_terms_than_a_sparse_vector_takes_is_kept(store: PgvectorStore, index: IndexRef) -> None:
    huge = " ".join(f"w{n}" for n in range(30_000))

    store.upsert(index, entries([huge, "small"]), timeout=WAIT)

    assert len(list(store.chunk_ids(index, timeout=WAIT))) == 2
    assert len(store.keyword_search(index, "small", 5, timeout=WAIT)) == 1


def test_half_a_surrogate_pair_is_no_obstacle(store: PgvectorStore, index: IndexRef) -> None:
    store.upsert(index, entries(["broken \ud83d emoji"]), timeout=WAIT)

    assert len(store.keyword_search(index, "emoji \ud83d", 5, timeout=WAIT)) == 1


def test_the_keyword_branch_ranks_xquad_as_bm25_does(store: PgvectorStore, index: IndexRef, shared_data: Path) -> None:
    """nDCG@10 of a plain BM25 is .965."""
    folder = shared_data / "xquad_en"
    documents = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    questions = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()][::5]
    relevant = dict(line.split("\t")[:2] for line in (folder / "qrels.tsv").read_text().splitlines()[1:])
    written = entries([f"{document['title']}\n{document['text']}" for document in documents])
    names = {e.chunk_id: document["_id"] for e, document in zip(written, documents, strict=True)}
    store.upsert(index, written, timeout=WAIT)

    gains = []
    for question in questions:
        found = [names[hit.chunk_id] for hit in store.keyword_search(index, question["text"], 10, timeout=WAIT)]
        wanted = relevant[question["_id"]]
        gains.append(1 / math.log2(found.index(wanted) + 2) if wanted in found else 0.0)

    assert sum(gains) / len(gains) >= 0.95


# --------------------------------------------------------------------------- statistics


def test_repetition_replacement_and_deletion_keep_the_statistics_true(
    engine: sa.Engine, store: PgvectorStore, index: IndexRef
) -> None:
    first, second = entries(forest(50, seed=1)), entries(forest(50, seed=2))
    fresh = make_index()
    store.upsert(fresh, second[10:], timeout=WAIT)

    store.upsert(index, first, timeout=WAIT)
    store.upsert(index, first, timeout=WAIT)
    store.upsert(index, second, timeout=WAIT)
    for _ in range(2):
        store.delete(index, [e.chunk_id for e in second[:10]], timeout=WAIT)

    assert counted(engine, index) == counted(engine, fresh)


def test_writing_the_same_again_leaves_scores_to_the_last_bit(store: PgvectorStore, index: IndexRef) -> None:
    written = entries(forest(50))
    store.upsert(index, written, timeout=WAIT)
    before = store.keyword_search(index, "yew ash", 50, timeout=WAIT)

    store.upsert(index, written[:20], timeout=WAIT)

    assert store.keyword_search(index, "yew ash", 50, timeout=WAIT) == before


def test_many_writes_are_added_up_without_changing_the_sums(
    engine: sa.Engine, store: PgvectorStore, index: IndexRef
) -> None:
    written = entries(forest(maintenance.COMPACT_AFTER + 10))
    fresh = make_index()
    store.upsert(fresh, written, timeout=WAIT)

    for e in written:
        store.upsert(index, [e], timeout=WAIT)

    assert counted(engine, index) == counted(engine, fresh)
    rows = "SELECT count(*) FROM {corpus} WHERE kb_id = %(kb)s"
    [(writes,)] = search(engine, Tables.of(index).render(rows), {"kb": index.kb_id}, timeout=WAIT)
    assert writes <= maintenance.COMPACT_AFTER


def test_dropping_leaves_no_statistics(engine: sa.Engine, store: PgvectorStore, index: IndexRef) -> None:
    store.upsert(index, entries(forest(20)), timeout=WAIT)

    store.drop(index, timeout=WAIT)

    assert counted(engine, index) == ((0, 0), {})


def test_writers_and_deleters_of_the_same_chunks_keep_the_statistics_true(
    engine: sa.Engine, store: PgvectorStore, index: IndexRef
) -> None:
    written = entries(forest(60))
    chance = random.Random(5)

    def churn(turn: int) -> None:
        some = chance.sample(written, 40)
        if turn % 3:
            store.upsert(index, some, timeout=WAIT)
        else:
            store.delete(index, [e.chunk_id for e in some], timeout=WAIT)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, range(40)))
    left = set(store.chunk_ids(index, timeout=WAIT))
    fresh = make_index()
    store.upsert(fresh, [e for e in written if e.chunk_id in left], timeout=WAIT)

    assert counted(engine, index) == counted(engine, fresh)


# --------------------------------------------------------------------------- vectors


def test_a_small_knowledge_base_beside_a_large_one_is_searched_in_full(store: PgvectorStore) -> None:
    """20,000 vectors of another knowledge base lie in the same table."""
    large, small = make_index(model="neighbours"), make_index(model="neighbours")
    crowd = entries([""] * 20_000, seed=1)
    for first in range(0, len(crowd), 5000):
        store.upsert(large, crowd[first : first + 5000], timeout=WAIT)
    few = entries([""] * 60, seed=2)
    store.upsert(small, few, timeout=WAIT)
    question = vectors(1, seed=3)[0]

    hits = store.vector_search(small, question, 50, timeout=WAIT)

    cosine = {e.chunk_id: float(question @ e.vector / np.linalg.norm(e.vector)) for e in few}
    assert [hit.chunk_id for hit in hits] == sorted(cosine, key=lambda chunk_id: -cosine[chunk_id])[:50]


def test_above_the_bound_an_index_of_its_own_serves_the_knowledge_base(engine: sa.Engine) -> None:
    store, index = PgvectorStore(engine, exact_up_to=500), make_index(dimensions=32)
    written = entries([""] * 1500, dimensions=32)
    for first in range(0, len(written), 500):
        store.upsert(index, written[first : first + 500], timeout=WAIT)
    exact = PgvectorStore(engine, exact_up_to=10_000)

    recalls = []
    for question in vectors(10, 32, seed=9):
        got = {hit.chunk_id for hit in store.vector_search(index, question, 50, timeout=WAIT)}
        wanted = {hit.chunk_id for hit in exact.vector_search(index, question, 50, timeout=WAIT)}
        recalls.append(len(got & wanted) / len(wanted))

    assert sum(recalls) / len(recalls) > 0.9
    assert index_exists(engine, index)
    assert len(store.vector_search(index, vectors(1, 32)[0], 1200, timeout=WAIT)) == 1200
    store.drop(index, timeout=WAIT)
    assert not index_exists(engine, index)


def index_exists(engine: sa.Engine, index: IndexRef) -> bool:
    name = Tables.of(index).hnsw_index(index.kb_id)
    [(exists,)] = search(engine, b"SELECT to_regclass(%(name)s) IS NOT NULL", {"name": name}, timeout=WAIT)
    return bool(exists)


def test_more_than_two_thousand_dimensions_fit(engine: sa.Engine) -> None:
    store, index = PgvectorStore(engine, exact_up_to=5), make_index(dimensions=3072)
    written = entries(["word"] * 10, dimensions=3072)
    store.upsert(index, written, timeout=WAIT)
    store.upsert(index, written, timeout=WAIT)

    [hit] = store.vector_search(index, written[4].vector, 1, timeout=WAIT)

    assert hit.chunk_id == written[4].chunk_id
    assert hit.score == pytest.approx(1.0, abs=1e-3)


def test_a_vector_of_zeros_is_kept_but_near_to_nothing(store: PgvectorStore, index: IndexRef) -> None:
    [blank] = entries(["words"])
    blank = blank.model_copy(update={"vector": np.zeros(DIMENSIONS, dtype=np.float32)})

    store.upsert(index, [blank], timeout=WAIT)

    assert store.vector_search(index, vectors(1)[0], 5, timeout=WAIT) == []
    assert len(store.keyword_search(index, "words", 5, timeout=WAIT)) == 1


def test_a_vector_of_another_size_is_refused(store: PgvectorStore, index: IndexRef) -> None:
    with pytest.raises(RequestRejected, match="8 dimensions"):
        store.vector_search(index, vectors(1, 9)[0], 5, timeout=WAIT)


# --------------------------------------------------------------------------- tables


def test_many_workers_may_make_the_first_table_at_once(postgres_url: str) -> None:
    """Each with an engine and a store of its own, as separate processes have them."""
    index = make_index(model=f"first-{uuid.uuid4()}")

    def write(seed: int) -> None:
        engine = make_engine(postgres_url, pool=1, connect_timeout=5, statement_timeout=WAIT)
        PgvectorStore(engine).upsert(index, entries(["text"], seed=seed), timeout=WAIT)
        engine.dispose()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))

    engine = make_engine(postgres_url, pool=1, connect_timeout=5, statement_timeout=WAIT)
    assert len(list(PgvectorStore(engine).chunk_ids(index, timeout=WAIT))) == 6
    engine.dispose()


def test_threads_of_one_worker_wait_for_the_first_table_until_others_see_it(
    store: PgvectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def slow(engine: sa.Engine, timeout: float) -> Iterator[psycopg.Connection]:
        with transaction(engine, timeout) as connection:
            yield connection
            time.sleep(0.5)

    monkeypatch.setattr("pipeline.adapters.pgvector.tables.transaction", slow)
    index = make_index(model=f"shared-{uuid.uuid4()}")

    def write(seed: int) -> None:
        time.sleep(seed * 0.1)
        store.upsert(index, entries(["text"], seed=seed), timeout=WAIT)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))

    assert len(list(store.chunk_ids(index, timeout=WAIT))) == 4


def test_models_with_names_alike_have_tables_apart() -> None:
    names = [
        Tables.of(make_index(model=model)).render("{vectors}") for model in ("a-b", "a_b", "A.b", "a" * 300, '";--')
    ]

    assert len(set(names)) == 5
    assert all(len(name) < 64 and name.decode().replace("_", "").isalnum() for name in names)


# --------------------------------------------------------------------------- failing


def test_check_names_both_versions(store: PgvectorStore) -> None:
    assert store.check(timeout=WAIT).startswith("pgvector 0.")
    assert " on PostgreSQL " in store.check(timeout=WAIT)


def test_a_server_that_is_not_there_is_unreachable(free_port: Callable[[], int]) -> None:
    url = f"postgresql://someone:hidden@127.0.0.1:{free_port()}/none"
    engine = make_engine(url, pool=1, connect_timeout=1, statement_timeout=1)

    with pytest.raises(Unreachable) as caught:
        PgvectorStore(engine).keyword_search(make_index(), "words", 5, timeout=1)

    assert "hidden" not in str(caught.value)


def test_a_search_may_not_take_longer_than_its_timeout_and_its_connection_serves_again(engine: sa.Engine) -> None:
    with pytest.raises(TimedOut):
        search(engine, b"SELECT pg_sleep(20)", {}, timeout=0.05)

    assert search(engine, b"SELECT current_setting('statement_timeout')", {}, timeout=2) == [("2s",)]


def test_a_transaction_that_fails_writes_nothing(engine: sa.Engine) -> None:
    with pytest.raises(TimedOut), transaction(engine, 0.2) as connection:
        connection.execute("CREATE TABLE left_behind (); SELECT pg_sleep(20)")

    assert search(engine, b"SELECT to_regclass('left_behind')", {}, timeout=WAIT) == [(None,)]


def test_a_connection_that_the_server_cut_is_replaced(engine: sa.Engine, store: PgvectorStore, index: IndexRef) -> None:
    store.upsert(index, entries(["word"]), timeout=WAIT)

    with pytest.raises(Unreachable), transaction(engine, WAIT) as connection:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    assert len(store.keyword_search(index, "word", 5, timeout=WAIT)) == 1


@pytest.mark.parametrize(
    "error",
    [
        errors.FeatureNotSupported('extension "vector" is not available'),
        errors.UndefinedFile('could not open extension control file "vector.control"'),
        errors.UndefinedObject('type "vector" does not exist'),
        errors.InsufficientPrivilege('permission denied to create extension "vector"'),
    ],
)
def test_a_missing_extension_is_bad_settings_that_say_what_to_do(error: psycopg.Error) -> None:
    explained = _explained(error)

    assert isinstance(explained, BadSettings)
    assert "CREATE EXTENSION vector" in explained.hint
