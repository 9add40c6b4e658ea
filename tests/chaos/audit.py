"""What must hold after a run, whatever happened during it: Postgres, the vector store and Redis, row by row."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import redis
import sqlalchemy as sa

from pipeline.adapters.pgvector.tables import Tables
from pipeline.ask import flow
from pipeline.ask.question import new_question
from pipeline.ingest.inspection import inspect
from pipeline.types import AskOptions, KnowledgeBase
from pipeline.wiring import Parts
from tests.chaos.corpus import Corpus

KB = "chaos"
_SAMPLE = 12
_SHOWN = 5
_TIMEOUT = 30.0
_WITHOUT_END = ("_kombu.binding", "workers", "control", "unacked")
"""Keys that may stay for ever, as they don't grow with the work; and those of the sweep, which goes on."""

Row = dict[str, Any]


def in_motion(redis_url: str, namespace: str) -> dict[str, int]:
    """Messages that wait in queues or are held by workers, by key; but for replies that came too late to be heard."""
    with redis.Redis.from_url(redis_url, decode_responses=True, socket_timeout=10) as client:
        lists = client.scan_iter(f"{namespace}:*", _type="LIST")
        counts = {key: client.llen(key) for key in lists if not key.endswith(".pidbox")}
        counts |= {key: client.hlen(key) for key in client.scan_iter(f"{namespace}:unacked:*")}
    return {key: count for key, count in counts.items() if count}


def findings(parts: Parts, run_id: str, corpus: Corpus) -> list[str]:
    """All that is wrong in Postgres and in the vector store, one line each."""
    kb = parts.knowledge_bases.find("default", KB)
    checks = (
        _of_run(parts, run_id, corpus),
        _of_documents(parts, kb, corpus),
        _of_chunks(parts, kb),
        _of_store(parts, kb),
        _of_fsck(parts, kb),
        _of_pgvector(parts, kb) if kb.store == "pgvector" else iter(()),
        _of_answers(parts, kb, corpus),
    )
    return [finding for check in checks for finding in check]


def left_in_redis(redis_url: str, namespace: str) -> Iterator[str]:
    """Nothing stays for ever; what dead workers were known by is forgotten."""
    with redis.Redis.from_url(redis_url, decode_responses=True, socket_timeout=10) as client:
        for key in client.scan_iter(f"{namespace}:*", count=1000):
            name = key.removeprefix(f"{namespace}:")
            if client.ttl(key) == -1 and not name.startswith(_WITHOUT_END):
                yield f"the key {name} in Redis has no time to live"
        tokens: Any = client.smembers(f"{namespace}:workers")
        dead = [token for token in tokens if not client.exists(f"{namespace}:worker:{token}")]
        if dead and not _forgotten(client, namespace, dead):
            yield f"{len(dead)} dead workers are still registered"


def distinct_texts(parts: Parts) -> int:
    """How many texts have a vector."""
    return int(_rows(parts, "SELECT count(*) AS n FROM embeddings")[0]["n"])


def _of_run(parts: Parts, run_id: str, corpus: Corpus) -> Iterator[str]:
    items = _rows(parts, "SELECT key, status, error FROM run_items WHERE run_id = :run", run=run_id)
    yield from _differences("sources in the manifest", {row["key"] for row in items}, set(corpus.texts))
    for row in items:
        if row["status"] not in ("done", "unchanged"):
            yield f"item {row['key']} is {row['status']}: {row['error']}"
    touched = {row["key"] for row in items if row["status"] == "done"} & corpus.unchanged
    if touched:
        yield f"{len(touched)} unchanged documents were done again, such as {sorted(touched)[:_SHOWN]}"
    batches = _rows(parts, "SELECT * FROM run_batches WHERE run_id = :run", run=run_id)
    for row in batches:
        if row["stage"] != "over" or row["done"] + row["unchanged"] + row["failed"] != row["items"]:
            yield f"batch {row['number']} is not over, or counts wrongly: {dict(row)}"
    counted = Counter({name: sum(row[name] for row in batches) for name in ("done", "unchanged", "failed")})
    by_status = Counter(row["status"] for row in items)
    if +counted != +by_status:
        yield f"batches count {dict(counted)}, items are {dict(by_status)}"


def _of_documents(parts: Parts, kb: KnowledgeBase, corpus: Corpus) -> Iterator[str]:
    """Each document is live once, with the text that was ingested and no other generation beside it."""
    documents = _rows(
        parts,
        "SELECT d.key, d.status, d.live_generation, v.text, (SELECT count(*) FROM document_versions o "
        "WHERE o.document_id = d.id) AS versions FROM documents d LEFT JOIN document_versions v "
        "ON v.document_id = d.id AND v.generation = d.live_generation WHERE d.kb_id = :kb",
        kb=kb.id,
    )
    yield from _differences("documents", {row["key"] for row in documents}, set(corpus.texts))
    if len(documents) != len(corpus.texts):
        yield f"{len(documents)} documents instead of {len(corpus.texts)}"
    for row in documents:
        if row["status"] != "live" or row["versions"] != 1:
            yield f"{row['key']} is {row['status']} and has {row['versions']} generations"
        if row["text"] != corpus.texts.get(row["key"]):
            was = "its earlier text" if row["text"] == corpus.earlier.get(row["key"]) else "another text"
            yield f"{row['key']} has {was}, in generation {row['live_generation']}"


def _of_chunks(parts: Parts, kb: KnowledgeBase) -> Iterator[str]:
    """Chunks are numbered without a gap, are exact spans, and cover all of the text but white space."""
    rows = _rows(
        parts,
        "SELECT d.key, d.live_generation, d.chunk_count, v.text, c.generation, c.ordinal, c.text AS piece, "
        "c.start_char, c.end_char FROM documents d "
        "JOIN document_versions v ON v.document_id = d.id AND v.generation = d.live_generation "
        "LEFT JOIN chunks c ON c.document_id = d.id WHERE d.kb_id = :kb ORDER BY d.key, c.generation, c.ordinal",
        kb=kb.id,
    )
    by_key: dict[str, list[Row]] = {}
    for row in rows:
        by_key.setdefault(row["key"], []).append(row)
    for key, pieces in by_key.items():
        first = pieces[0]
        if {piece["generation"] for piece in pieces} != {first["live_generation"]}:
            yield f"{key} has chunks of generations {sorted({piece['generation'] for piece in pieces}, key=str)}"
        elif [piece["ordinal"] for piece in pieces] != list(range(first["chunk_count"])):
            yield f"{key} has chunks {[piece['ordinal'] for piece in pieces]} of {first['chunk_count']}"
        elif left := _uncovered(first["text"], pieces):
            yield f"{key}: its chunks are no spans of its text, or leave out {left[:50]!r}"
    if kb.chunks != len(rows):
        yield f"the knowledge base counts {kb.chunks} chunks, there are {len(rows)}"


def _uncovered(text: str, pieces: list[Row]) -> str:
    left = list(text)
    for piece in pieces:
        start, end = piece["start_char"], piece["end_char"]
        if text[start:end] != piece["piece"]:
            return str(piece["piece"])
        left[start:end] = " " * (end - start)
    return "".join(left).strip()


def _of_store(parts: Parts, kb: KnowledgeBase) -> Iterator[str]:
    """The vector store holds the chunks of Postgres, each once."""
    stored = Counter(parts.store.chunk_ids(kb.index, timeout=_TIMEOUT))
    chunks = {row["id"] for row in _rows(parts, "SELECT id::text AS id FROM chunks WHERE kb_id = :kb", kb=kb.id)}
    yield from _differences("chunks in the store", set(stored), chunks)
    if stored.total() != len(stored):
        yield f"{stored.total() - len(stored)} chunks are in the store twice"


def _of_fsck(parts: Parts, kb: KnowledgeBase) -> Iterator[str]:
    """What an operator would be told."""
    found = inspect(kb, ledger=parts.inspection, store=parts.store, cache=parts.embeddings, timeout=_TIMEOUT)
    if not found.clean:
        yield f"fsck finds {found.counts}: {found.examples}"


def _of_pgvector(parts: Parts, kb: KnowledgeBase) -> Iterator[str]:
    """Generations, vectors and the statistics of BM25 are those of the chunks."""
    tables = Tables.of(kb.index)
    query = (
        "SELECT c.id::text AS id, v.generation = c.generation AND v.document_id = c.document_id AS same, "
        "v.embedding::text AS stored, e.vector AS embedded FROM {vectors} v JOIN chunks c ON c.id = v.chunk_id "
        "LEFT JOIN embeddings e ON e.hash = c.embed_hash AND e.space = :space WHERE v.kb_id = :kb"
    )
    for row in _rows(parts, tables.render(query).decode(), kb=kb.id, space=kb.vector_space):
        if not row["same"]:
            yield f"chunk {row['id']} has another document or generation in the store"
        if row["embedded"] is None or not np.allclose(_vector(row["stored"]), np.frombuffer(row["embedded"], "<f4")):
            yield f"chunk {row['id']} has the vector of another text"
    statistics = (
        "SELECT (SELECT coalesce(sum(chunks), 0) FROM {corpus} WHERE kb_id = :kb) AS chunks, "
        "(SELECT coalesce(sum(length), 0) FROM {corpus} WHERE kb_id = :kb) AS length, "
        "(SELECT count(*) FROM {keywords} WHERE kb_id = :kb) AS rows, "
        "(SELECT coalesce(sum(length), 0) FROM {keywords} WHERE kb_id = :kb) AS lengths"
    )
    row = _rows(parts, tables.render(statistics).decode(), kb=kb.id)[0]
    if (row["chunks"], row["length"]) != (row["rows"], row["lengths"]):
        yield f"the statistics of the keyword branch are wrong: {row}"


def _of_answers(parts: Parts, kb: KnowledgeBase, corpus: Corpus) -> Iterator[str]:
    """A question about a document finds it."""
    for key in random.Random(corpus.seed).sample(sorted(corpus.texts), _SAMPLE):
        text = f"What about {corpus.names[key]}?"
        question = new_question(
            text, parts.settings, kb=kb.name, options=AskOptions(top_k=20, min_score=0.0, strict=True)
        )
        passages = flow.retrieve(question, parts).passages
        if not any(passage.text in corpus.texts[key] for passage in passages):
            yield f"{text!r} does not find {key} in {parts.settings.store_name}"


def _forgotten(client: redis.Redis, namespace: str, tokens: list[str], within: float = 20.0) -> bool:
    end = time.monotonic() + within
    while any(client.smismember(f"{namespace}:workers", tokens)):
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def _differences(name: str, found: set[str], expected: set[str]) -> Iterator[str]:
    for what, keys in (("missing", expected - found), ("too many", found - expected)):
        if keys:
            yield f"{name}: {len(keys)} {what}, such as {sorted(keys)[:_SHOWN]}"


def _vector(text: str) -> np.ndarray[Any, Any]:
    return np.fromstring(text.strip("[]"), dtype=np.float32, sep=",")


def _rows(parts: Parts, statement: str, **values: object) -> list[Row]:
    with parts.engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.text(statement), values).mappings()]
