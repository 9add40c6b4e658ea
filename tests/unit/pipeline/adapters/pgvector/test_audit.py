"""What a check finds wrong between the tables of one index, done to them on purpose."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa

from pipeline.adapters.pgvector import PgvectorStore, audit
from pipeline.adapters.pgvector.session import snapshot, transaction
from pipeline.adapters.pgvector.tables import Tables
from pipeline.adapters.postgres.engine import make_engine
from pipeline.types import IndexEntry, IndexRef

WAIT = 30.0


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
    return IndexRef(kb_id=str(uuid.uuid4()), model="audited", dimensions=4)


def entries(count: int) -> list[IndexEntry]:
    return [
        IndexEntry(
            chunk_id=str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))),
            document_id=str(uuid.uuid5(uuid.NAMESPACE_DNS, str(number))),
            generation=1,
            vector=np.ones(4, np.float32),
            keywords=f"word{number} oak " + "pine " * (number % 5),
        )
        for number in range(count)
    ]


def damage(engine: sa.Engine, index: IndexRef, statement: str, **values: object) -> None:
    with transaction(engine, WAIT) as connection:
        connection.execute(Tables.of(index).render(statement), {"kb": index.kb_id, **values})


def test_what_was_written_deleted_and_replaced_counts_right(store: PgvectorStore, index: IndexRef) -> None:
    written = entries(60)
    store.upsert(index, written, timeout=WAIT)
    store.upsert(index, [one.model_copy(update={"keywords": "birch"}) for one in written[:20]], timeout=WAIT)
    store.delete(index, [one.chunk_id for one in written[10:30]], timeout=WAIT)
    assert store.faults(index, timeout=WAIT) == []


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE {corpus} SET chunks = chunks + 3 WHERE kb_id = %(kb)s", ["statistics count 43 chunks"]),
        ("UPDATE {corpus} SET length = length + 9 WHERE kb_id = %(kb)s", ["statistics count 40 chunks"]),
        ("DELETE FROM {counts} WHERE kb_id = %(kb)s", ["wrong for 42 of 42 terms"]),
        ("UPDATE {counts} SET delta = 1 WHERE kb_id = %(kb)s", ["wrong for 2 of 42 terms"]),
        ("INSERT INTO {counts} VALUES (%(kb)s, 5, 1)", ["wrong for 1 of 42 terms"]),
        ("DELETE FROM {corpus} WHERE kb_id = %(kb)s", ["statistics count 0 chunks"]),
    ],
)
def test_statistics_that_are_not_those_of_the_chunks_are_found_and_counted_anew(
    engine: sa.Engine, store: PgvectorStore, index: IndexRef, statement: str, told: list[str]
) -> None:
    store.upsert(index, entries(40), timeout=WAIT)
    before = store.keyword_search(index, "oak pine word7", 40, timeout=WAIT)
    damage(engine, index, statement)

    found = store.faults(index, timeout=WAIT)
    assert len(found) == len(told)
    assert all(part in line for part, line in zip(told, found, strict=True))

    store.mend(index, timeout=WAIT)
    assert store.faults(index, timeout=WAIT) == []
    assert store.keyword_search(index, "oak pine word7", 40, timeout=WAIT) == before


def test_halves_of_entries_are_found_in_their_place(engine: sa.Engine, store: PgvectorStore, index: IndexRef) -> None:
    """A vector without keywords and the reverse; three pages of each, the halves at their ends and in between."""
    written = sorted(entries(90), key=lambda one: one.chunk_id)
    store.upsert(index, written, timeout=WAIT)
    no_vector = [written[n].chunk_id for n in (0, 29, 30, 31, 89)]
    no_keywords = [written[n].chunk_id for n in (1, 28, 32, 88)]
    damage(
        engine, index, "DELETE FROM {vectors} WHERE kb_id = %(kb)s AND chunk_id = ANY(%(ids)s::uuid[])", ids=no_vector
    )
    damage(
        engine,
        index,
        "DELETE FROM {keywords} WHERE kb_id = %(kb)s AND chunk_id = ANY(%(ids)s::uuid[])",
        ids=no_keywords,
    )

    for page in (10_000, 30, 7, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(audit, "_PAGE", page)
            found = list(store.entries(index, timeout=WAIT))
        assert [one.chunk_id for one in found] == [one.chunk_id for one in written]
        assert [one.chunk_id for one in found if one.broken == "no vector"] == no_vector
        assert [one.chunk_id for one in found if one.broken == "no keywords"] == no_keywords
    lines = store.faults(index, timeout=WAIT)
    assert lines[:2] == ["4 vectors have no keywords", "5 chunks have keywords and no vector"]

    store.mend(index, timeout=WAIT)
    assert store.faults(index, timeout=WAIT) == []
    assert len(list(store.entries(index, timeout=WAIT))) == 81


def test_an_index_never_made_has_no_faults(store: PgvectorStore) -> None:
    nowhere = IndexRef(kb_id=str(uuid.uuid4()), model="never-audited", dimensions=4)
    assert store.faults(nowhere, timeout=WAIT) == []
    store.mend(nowhere, timeout=WAIT)
    assert list(store.entries(nowhere, timeout=WAIT)) == []


def test_another_knowledge_base_is_not_touched(engine: sa.Engine, store: PgvectorStore, index: IndexRef) -> None:
    other = index.model_copy(update={"kb_id": str(uuid.uuid4())})
    for one in (index, other):
        store.upsert(one, entries(10), timeout=WAIT)
        damage(engine, one, "DELETE FROM {counts} WHERE kb_id = %(kb)s")
    store.mend(index, timeout=WAIT)
    assert store.faults(index, timeout=WAIT) == []
    assert store.faults(other, timeout=WAIT) == ["keyword statistics are wrong for 12 of 12 terms"]


def test_a_snapshot_sees_one_moment_and_leaves_the_connection_as_it_was(postgres_url: str) -> None:
    engine = make_engine(postgres_url, pool=1, connect_timeout=5, statement_timeout=WAIT)
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("CREATE TABLE moments (number integer)")
        with snapshot(engine, WAIT) as connection:
            counted = [connection.execute("SELECT count(*) FROM moments").fetchone()]
            other.execute("INSERT INTO moments VALUES (1)")
            counted.append(connection.execute("SELECT count(*) FROM moments").fetchone())
        with transaction(engine, WAIT) as connection:
            connection.execute("INSERT INTO moments VALUES (2)")
            [level] = connection.execute("SHOW transaction_isolation").fetchone() or ("",)
        other.execute("DROP TABLE moments")
    engine.dispose()
    assert counted == [(0,), (0,)]
    assert level == "read committed"
