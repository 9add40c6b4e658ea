"""The same work as a question, written plainly: one asyncio program with no queue, no durability and no second chance.

Embeds through OpenAI's own client, searches, reads the texts, renders the prompt, streams the answer to its caller and
records one row in Postgres. It searches the knowledge base that Celeriac has ingested, on the same servers. In Weaviate
that is one hybrid query; on pgvector it is Celeriac's two statements side by side and its fusion.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any, Protocol, cast

import numpy as np
import openai
import psycopg
import weaviate
from weaviate.classes.query import HybridFusion, MetadataQuery
from weaviate.connect import ConnectionParams

from pipeline import prompts, settings
from pipeline.adapters.pgvector import binary, keywords, vectors
from pipeline.adapters.pgvector.tables import Tables
from pipeline.adapters.weaviate.addresses import grpc_address, rest_address
from pipeline.adapters.weaviate.collection import KEYWORDS, collection_name
from pipeline.adapters.weaviate.words import Stems
from pipeline.retrieve.fuse import fuse
from pipeline.types import Hit, KnowledgeBase, Passage
from pipeline.wiring import Parts
from tests.benchmarks.jobs import Job, Tally, serve
from tests.benchmarks.questions import KB, question
from tests.benchmarks.servers import STORE_CONNECTIONS

_CONNECTIONS = 20
_TOP_K = 5
_CANDIDATES = 50
_ALPHA = 0.5
_TABLE = """
CREATE TABLE IF NOT EXISTS twin_answers (
    id uuid PRIMARY KEY, asked_at timestamptz NOT NULL DEFAULT now(), question text NOT NULL, answer text NOT NULL,
    passages jsonb NOT NULL, seconds float8 NOT NULL, input_tokens integer NOT NULL, output_tokens integer NOT NULL
)
"""
_TEXTS = """
SELECT c.id::text, c.document_id::text, d.title, d.key, c.text
FROM chunks c JOIN documents d ON d.id = c.document_id WHERE c.id = ANY(%s::uuid[])
"""
_RECORD = """
INSERT INTO twin_answers (id, question, answer, passages, seconds, input_tokens, output_tokens)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""
# What Celeriac sets for each of its searches, set once.
_SEARCHING = "-c jit=off -c max_parallel_workers_per_gather=0 -c plan_cache_mode=force_custom_plan"
_BY_INDEX = f"{_SEARCHING} -c enable_sort=off -c hnsw.iterative_scan=strict_order -c hnsw.ef_search=100"

Vector = list[float]


class Search(Protocol):
    """Ids of the best chunks for a question."""

    async def __call__(self, text: str, vector: Vector) -> Sequence[str]:
        """Best first."""


class Pool:
    """Some connections to Postgres, each lent to one user at a time."""

    def __init__(self, connections: Sequence[psycopg.AsyncConnection[Any]]) -> None:
        self._free: asyncio.LifoQueue[psycopg.AsyncConnection[Any]] = asyncio.LifoQueue()
        for connection in connections:
            binary.accept_binary(cast("Any", connection))
            self._free.put_nowait(connection)

    @classmethod
    async def open(cls, url: str, name: str, options: str = "") -> Pool:
        """All connections at once."""
        opening = [
            psycopg.AsyncConnection.connect(url, autocommit=True, application_name=name, options=options)
            for _ in range(_CONNECTIONS)
        ]
        return cls(await asyncio.gather(*opening))

    @asynccontextmanager
    async def one(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A connection."""
        connection = await self._free.get()
        try:
            yield connection
        finally:
            self._free.put_nowait(connection)

    async def rows(self, statement: Any, parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of one statement."""
        async with self.one() as connection:
            cursor = await connection.execute(statement, parameters)
            return await cursor.fetchall()


class Twin:
    """The program."""

    def __init__(self, model: openai.AsyncOpenAI, parts: Parts, kb: KnowledgeBase, rows: Pool, search: Search) -> None:
        self._model = model
        self._settings = parts.settings
        self._kb = kb
        self._rows = rows
        self._search = search

    async def ask(self, text: str) -> AsyncIterator[str]:
        """The pieces of the answer."""
        begun = time.perf_counter()
        embedded = await self._model.embeddings.create(model=self._kb.embedding_model, input=text)
        found = await self._search(text, embedded.data[0].embedding)
        passages = await self._read(found)
        pieces: list[str] = []
        used = (0, 0)
        async for piece, usage in self._stream(text, passages):
            if usage:
                used = (usage.prompt_tokens, usage.completion_tokens)
            if piece:
                pieces.append(piece)
                yield piece
        async with self._rows.one() as connection:
            shown = json.dumps([passage.model_dump(exclude_defaults=True) for passage in passages])
            row = (uuid.uuid4(), text, "".join(pieces), shown, time.perf_counter() - begun, *used)
            await connection.execute(_RECORD, row)

    async def _read(self, ids: Sequence[str]) -> list[Passage]:
        places = {row[0]: row for row in await self._rows.rows(_TEXTS, [list(ids)])}
        return [
            Passage(chunk_id=row[0], document_id=row[1], title=row[2], source=row[3], text=row[4])
            for row in (places[one] for one in ids if one in places)
        ]

    async def _stream(self, text: str, passages: Sequence[Passage]) -> AsyncIterator[tuple[str, Any]]:
        messages: Any = [{"role": role, "content": said} for role, said in prompts.render(text, passages)]
        stream = await self._model.chat.completions.create(
            model=self._settings.generator_name,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            yield (chunk.choices[0].delta.content or "" if chunk.choices else ""), chunk.usage


def pgvector_search(kb: KnowledgeBase, vector_pool: Pool, keyword_pool: Pool) -> Search:
    """Celeriac's two statements and its fusion."""
    tables = Tables.of(kb.index)
    nearest, matching = tables.render(vectors._SEARCH), tables.render(keywords._SEARCH)
    exact = vectors.exact_bound(kb.dimensions)

    async def search(text: str, vector: Vector) -> Sequence[str]:
        packed = binary.vector(np.asarray(vector, dtype=np.float32), half=tables.half)
        common = {"kb": kb.id, "limit": _CANDIDATES}
        by_vector, by_keyword = await asyncio.gather(
            vector_pool.rows(nearest, common | {"vector": packed, "exact": exact}),
            keyword_pool.rows(matching, common | {"text": text, "language": "english"}),
        )
        hits = [[Hit(chunk_id=row[0], score=row[1]) for row in rows] for rows in (by_vector, by_keyword)]
        fused = fuse(hits[0], hits[1], alpha=_ALPHA, method="scores", limit=_CANDIDATES, chunks=kb.chunks)
        return [chunk.chunk_id for chunk in fused[:_TOP_K]]

    return search


def weaviate_search(kb: KnowledgeBase, client: weaviate.WeaviateAsyncClient) -> Search:
    """One hybrid query."""
    tenant = client.collections.use(collection_name(kb.index)).with_tenant(kb.id)
    stems = Stems("english")

    async def search(text: str, vector: Vector) -> Sequence[str]:
        found = await tenant.query.hybrid(
            stems.of(text),
            vector=vector,
            alpha=_ALPHA,
            limit=_TOP_K,
            query_properties=[KEYWORDS],
            fusion_type=HybridFusion.RELATIVE_SCORE,
            return_metadata=MetadataQuery(score=True),
            return_properties=[],
        )
        return [str(one.uuid) for one in found.objects]

    return search


async def _open() -> Twin:
    with closing(Parts(settings.load())) as parts:
        kb = parts.knowledge_bases.find("default", KB)
    rows = await Pool.open(parts.database_url, "twin")
    async with rows.one() as connection:
        await connection.execute(_TABLE)
    key = parts.settings.openai_api_key
    model = openai.AsyncOpenAI(api_key=key.get_secret_value() if key else "none", max_retries=0)
    return Twin(model, parts, kb, rows, await _search(parts, kb))


async def _search(parts: Parts, kb: KnowledgeBase) -> Search:
    if parts.settings.store_name == "pgvector":
        vector_pool = await Pool.open(parts.database_url, STORE_CONNECTIONS, _BY_INDEX)
        keyword_pool = await Pool.open(parts.database_url, STORE_CONNECTIONS, _SEARCHING)
        return pgvector_search(kb, vector_pool, keyword_pool)
    url = rest_address(parts.settings.weaviate_url or "")
    grpc = grpc_address(parts.settings.weaviate_grpc_url, url)
    client = weaviate.WeaviateAsyncClient(ConnectionParams(http=url, grpc=grpc), skip_init_checks=True)
    await client.connect()
    return weaviate_search(kb, client)


async def _work(twin: Twin, numbers: Iterator[int], job: Job, tally: Tally) -> None:
    """Ask one question after the other."""
    for number in numbers:
        begun, first = time.perf_counter(), None
        try:
            async for _piece in twin.ask(question(number, job.documents)):
                first = first or time.perf_counter() - begun
        except Exception as error:
            tally.failed(error)
        else:
            tally.answered(first or 0.0, time.perf_counter() - begun)


async def _run(twin: Twin, job: Job) -> Tally:
    tally = Tally()
    numbers = iter(range(job.first, job.first + job.questions))
    await asyncio.gather(*(_work(twin, numbers, job, tally) for _ in range(job.in_flight)))
    return tally


def main() -> None:
    """Serve jobs."""
    loop = asyncio.new_event_loop()
    twin = loop.run_until_complete(_open())
    serve(lambda job: loop.run_until_complete(_run(twin, job)))


if __name__ == "__main__":
    main()
