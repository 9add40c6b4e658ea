"""The tables of one embedding model and size, made when first needed."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import psycopg
import sqlalchemy as sa

from pipeline.adapters.pgvector.session import transaction
from pipeline.types import IndexRef

# Nobody else in this database locks it; "pgvector" read as a number in base 36.
_SCHEMA_LOCK = b"SELECT pg_advisory_xact_lock(1997490817419)"
# Not to_regclass: it believes its cache, which may not yet know what another session has just made.
_EXISTS = b"SELECT EXISTS (SELECT FROM pg_class WHERE relname = %(name)s AND pg_table_is_visible(oid))"
_TYPES = b"SELECT 'vector'::regtype::oid, 'halfvec'::regtype::oid, 'sparsevec'::regtype::oid"
_EXTENSION = b"CREATE EXTENSION IF NOT EXISTS vector"

# A vector and the keywords of the same chunk lie apart, so that neither branch reads pages full of what the
# other one needs. Statistics are append-only: writers add what they changed and never wait for each other;
# readers sum. `average` is the length that the weights of that chunk were made with. A knowledge base that
# grows large gets an HNSW index of its own (see maintenance.py).
_SCHEMA = """
CREATE TABLE {vectors} (
    kb_id uuid NOT NULL,
    chunk_id uuid NOT NULL,
    document_id uuid NOT NULL,
    generation integer NOT NULL,
    embedding {type}({dimensions}) NOT NULL,
    PRIMARY KEY (kb_id, chunk_id)
);

CREATE TABLE {keywords} (
    kb_id uuid NOT NULL,
    chunk_id uuid NOT NULL,
    length integer NOT NULL,
    average real NOT NULL,
    terms sparsevec(1000000000) NOT NULL,
    PRIMARY KEY (kb_id, chunk_id)
) WITH (toast_tuple_target = 8160);
CREATE INDEX ON {keywords} (kb_id, average);

CREATE TABLE {counts} (
    kb_id uuid NOT NULL,
    term integer NOT NULL,
    delta integer NOT NULL
);
CREATE INDEX ON {counts} (kb_id, term) INCLUDE (delta);

CREATE TABLE {corpus} (
    kb_id uuid NOT NULL,
    chunks bigint NOT NULL,
    length bigint NOT NULL
);
CREATE INDEX ON {corpus} (kb_id) INCLUDE (chunks, length);
"""
# The dimension of a word. hashtext is not documented, but indexes on disk depend on it, so that it can't
# change under them. A sparsevec counts from 1 in text and from 0 in binary form; terms are kept from 0.
_TERM = 'mod(hashtext(word.lexeme COLLATE "C") & 2147483647, 1000000000)'
_MAX_HNSW_DIMENSIONS = 2000
_SLUG_LENGTH = 24


@dataclass(frozen=True)
class Tables:
    """Names of the tables of one embedding model and size, safe to stand in SQL."""

    suffix: str
    dimensions: int

    @classmethod
    def of(cls, index: IndexRef) -> Tables:
        """The tables that ``index`` lies in; two models never share them, however alike their names."""
        return _tables(index.model, index.dimensions)

    @property
    def half(self) -> bool:
        """Whether vectors are kept in half precision: HNSW takes no more than 2000 full ones."""
        return self.dimensions > _MAX_HNSW_DIMENSIONS

    def render(self, template: str) -> bytes:
        """``template`` with the names of the tables, ``{type}`` of vectors and ``{term}`` of words filled in."""
        return _render(self, template)

    def hnsw_index(self, kb_id: str) -> str:
        """Name of the HNSW index over the vectors of one knowledge base."""
        return f"hnsw_{_digest(f'{self.suffix}/{kb_id.lower()}').hex()}"

    def lock_key(self, kb_id: str, purpose: str) -> int:
        """The advisory lock of one knowledge base in these tables, as a signed 64-bit number."""
        return int.from_bytes(_digest(f"celeriac/{self.suffix}/{kb_id.lower()}/{purpose}"), "big", signed=True)


class Types(NamedTuple):
    """Object ids of pgvector's types in this database."""

    vector: int
    halfvec: int
    sparsevec: int


class Catalogue:
    """Makes tables once, however many workers ask for them at the same moment."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over the engine of the store; opens nothing yet."""
        self._engine = engine
        self._known: dict[Tables, Types] = {}
        self._lock = threading.Lock()

    def ensure(self, tables: Tables, timeout: float) -> Types:
        """Make ``tables`` where they aren't there."""
        if tables not in self._known:
            with self._lock:
                with transaction(self._engine, timeout) as connection:
                    types = _ensure(connection, tables)
                self._known[tables] = types  # now that others see them
        return self._known[tables]


def _ensure(connection: psycopg.Connection, tables: Tables) -> Types:
    named = {"name": tables.render("{corpus}").decode()}
    # Even where they are there: a table can be seen a moment before other sessions forget that there was none, but
    # its maker holds this lock until they have.
    connection.execute(_SCHEMA_LOCK)
    if not _one(connection, _EXISTS, named)[0]:
        connection.execute(_EXTENSION)
        connection.execute(tables.render(_SCHEMA))
    return Types(*_one(connection, _TYPES, {}))


def _one(connection: psycopg.Connection, statement: bytes, parameters: dict[str, str]) -> tuple[int, ...]:
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None  # each of them is a SELECT without FROM
    return row


@lru_cache(maxsize=256)
def _tables(model: str, dimensions: int) -> Tables:
    slug = re.sub(r"[^a-z0-9]+", "_", model.lower()).strip("_")[:_SLUG_LENGTH]
    return Tables(f"{slug}_{_digest(model).hex()[:8]}_{dimensions}", dimensions)


@lru_cache(maxsize=4096)
def _render(tables: Tables, template: str) -> bytes:
    return template.format(
        vectors=f"vectors_{tables.suffix}",
        keywords=f"keywords_{tables.suffix}",
        counts=f"term_counts_{tables.suffix}",
        corpus=f"corpus_{tables.suffix}",
        term=_TERM,
        type="halfvec" if tables.half else "vector",
        dimensions=tables.dimensions,
    ).encode()


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
