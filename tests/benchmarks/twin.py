"""The same work as an ingest, written plainly: one asyncio program with no queue, no ledger and no second chance.

    DATABASE_URL=… python -m tests.benchmarks.twin corpus.jsonl

Reads JSON lines, cuts, embeds, writes to the vector store and the texts of the chunks to one table of Postgres, with
the very chunker, embedder and store of Celeriac. A record that fails ends it; what it has written stays, and nobody
knows how far it came. Prints seconds, counts and its processor time as JSON. The model is loaded before the
clock starts, as it is in a worker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg

from pipeline import settings
from pipeline.types import IndexEntry, IndexRef, ParsedDocument, indexed_text
from pipeline.wiring import Parts
from tests.benchmarks.processes import cpu_of_tree

_BATCH = 128
_AT_ONCE = 8
_TIMEOUT = 120.0
_TABLE = """
CREATE TABLE IF NOT EXISTS twin_chunks (
    id uuid PRIMARY KEY, kb_id uuid NOT NULL, document text NOT NULL, ordinal integer NOT NULL, title text NOT NULL,
    text text NOT NULL, start_char integer NOT NULL, end_char integer NOT NULL, tokens integer NOT NULL
)
"""
_COPY = "COPY twin_chunks FROM STDIN"

Row = tuple[Any, ...]


def main() -> None:
    """Ingest one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--processes", type=int, default=0, help="cut and embed in so many processes, not in threads")
    arguments = parser.parse_args()
    index = IndexRef(kb_id=str(uuid.uuid4()), model=_parts().embedder.model, dimensions=_parts().embedder.dimensions)
    with _executor(arguments.processes) as executor:
        _warm_up(executor, arguments.processes)
        before, begun = cpu_of_tree(os.getpid()), time.perf_counter()
        documents, passages = asyncio.run(_ingest(arguments.corpus, index, executor))
        seconds = time.perf_counter() - begun
        cpu = cpu_of_tree(os.getpid()) - before
    print(json.dumps({"seconds": seconds, "documents": documents, "passages": passages, "cpu": cpu}))


async def _ingest(corpus: Path, index: IndexRef, executor: Executor) -> tuple[int, int]:
    """Read on while earlier batches are computed and written; returns how many documents and passages."""
    async with await psycopg.AsyncConnection.connect(_parts().database_url, autocommit=True) as connection:
        await connection.execute(_TABLE)
    queue: asyncio.Queue[list[str]] = asyncio.Queue(_AT_ONCE)
    writers = [asyncio.create_task(_write(queue, index, executor)) for _ in range(_AT_ONCE)]
    documents = 0
    with corpus.open(encoding="utf-8") as lines:
        while batch := await asyncio.to_thread(lambda: list(islice(lines, _BATCH))):
            documents += len(batch)
            await queue.put(batch)
    for _ in writers:
        await queue.put([])
    return documents, sum(await asyncio.gather(*writers))


async def _write(queue: asyncio.Queue[list[str]], index: IndexRef, executor: Executor) -> int:
    loop, parts, written = asyncio.get_running_loop(), _parts(), 0
    async with await psycopg.AsyncConnection.connect(parts.database_url, autocommit=True) as connection:
        while batch := await queue.get():
            rows, entries = await loop.run_in_executor(executor, _prepare, batch, index.kb_id)
            await asyncio.gather(
                asyncio.to_thread(parts.store.upsert, index, entries, timeout=_TIMEOUT), _copy(connection, rows)
            )
            written += len(rows)
    return written


async def _copy(connection: psycopg.AsyncConnection[Any], rows: list[Row]) -> None:
    async with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        for row in rows:
            await copy.write_row(row)


def _prepare(lines: list[str], kb_id: str) -> tuple[list[Row], list[IndexEntry]]:
    """Parse, cut and embed."""
    rows = [row for line in lines for row in _rows(json.loads(line), kb_id)]
    texts = [indexed_text(title, text) for _, _, _, _, title, text, *_ in rows]
    vectors = _parts().embedder.embed(texts, timeout=_TIMEOUT).vectors
    entries = [
        IndexEntry(chunk_id=row[0], document_id=_id(kb_id, row[2]), generation=1, vector=vector, keywords=text)
        for row, vector, text in zip(rows, vectors, texts, strict=True)
    ]
    return rows, entries


def _rows(record: dict[str, str], kb_id: str) -> Iterator[Row]:
    document, title = record["id"], record["title"]
    for chunk in _parts().chunker.chunk(ParsedDocument(text=record["text"], title=title)):
        chunk_id = _id(kb_id, f"{document}:{chunk.ordinal}")
        yield (chunk_id, kb_id, document, chunk.ordinal, title, chunk.text, chunk.start, chunk.end, chunk.tokens)


def _id(kb_id: str, name: str) -> str:
    return str(uuid.uuid5(uuid.UUID(kb_id), name))


@cache
def _parts() -> Parts:
    """The parts of this process."""
    return Parts(settings.load())


def _executor(processes: int) -> Executor:
    return ProcessPoolExecutor(processes) if processes else ThreadPoolExecutor(2)


def _warm_up(executor: Executor, processes: int) -> None:
    line = json.dumps({"id": "0", "title": "", "text": "The first text loads the model."})
    for warm in [executor.submit(_prepare, [line], str(uuid.UUID(int=0))) for _ in range(4 * max(1, processes))]:
        warm.result()


if __name__ == "__main__":
    main()
