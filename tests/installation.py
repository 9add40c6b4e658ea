"""One installation of Celeriac inside the tests: parts over real servers, and short ways to fill and ask it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa

from pipeline.adapters.postgres.batches import Batches
from pipeline.ask import flow as ask_flow
from pipeline.ask.question import new_question
from pipeline.ingest import flow
from pipeline.ingest.discover import discover
from pipeline.ingest.manifest import write_manifest
from pipeline.ingest.origins import encode_path
from pipeline.seams import AnswerWriter, EmbeddedPart, Embeddings
from pipeline.settings import Settings
from pipeline.types import (
    Answer,
    AskOptions,
    Batch,
    IndexRef,
    IngestStage,
    KnowledgeBase,
    Lease,
    Question,
    RecordFields,
    RunOptions,
    Source,
)
from pipeline.wiring import Parts

if TYPE_CHECKING:
    from tasks.client import Client

T = TypeVar("T")

EMBEDDER = "wordllama-256"
DIMENSIONS = 256

KILLS = "this document kills its reader"
HANGS = "this document keeps its reader for ever"
DEAFENS = "this document hears no signal and never ends"
"""What ``tests.deadly`` makes come true in the worker that parses."""


def migrated_parts(**settings: object) -> Parts:
    """Parts with these settings (services by the name of their variable), over a migrated database."""
    parts = Parts(Settings(**settings))  # type: ignore[arg-type]
    parts.schema.migrate()
    return parts


def new_kb(parts: Parts, name: str = "", tenant: str = "default", **changes: object) -> KnowledgeBase:
    """A knowledge base that no other test knows."""
    built_with: dict[str, object] = {"model": EMBEDDER, "dimensions": DIMENSIONS, "store": "pgvector", **changes}
    return parts.knowledge_bases.create(tenant, name or f"kb-{uuid.uuid4().hex}", **built_with)  # type: ignore[arg-type]


def write(folder: Path, **texts: str) -> None:
    """Files ``<name>.txt`` with these texts."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")


def manifest(parts: Parts, kb: KnowledgeBase, *paths: Path, prune: bool = False, batch_documents: int = 64) -> str:
    """A run whose manifest is complete, in status ``discovering``."""
    run_id, fields = str(uuid.uuid4()), RecordFields()
    parts.runs.create(run_id, kb.id, RunOptions(roots=tuple(map(encode_path, paths)), fields=fields, prune=prune))
    sources = discover(paths, fields=fields, max_record_bytes=10**7)
    list(write_manifest(run_id, sources, ledger=parts.runs, max_documents=batch_documents, max_tokens=10**6))
    return run_id


def started(parts: Parts, kb: KnowledgeBase, *paths: Path, prune: bool = False) -> str:
    """A run in status ``running`` that nobody works on yet."""
    run_id = manifest(parts, kb, *paths, prune=prune)
    parts.runs.start(run_id)
    return run_id


def ingest(parts: Parts, kb: KnowledgeBase, *paths: Path, prune: bool = False) -> str:
    """A run from start to end, in this process."""
    run_id = started(parts, kb, *paths, prune=prune)
    flow.run(run_id, parts)
    return run_id


def reembed(parts: Parts, kb: KnowledgeBase, model: str, dimensions: int) -> str:
    """A run that builds an index for another model, started."""
    run_id = str(uuid.uuid4())
    list(flow.begin_reembed(run_id, IndexRef(kb_id=kb.id, model=model, dimensions=dimensions), parts))
    parts.runs.start(run_id)
    return run_id


def listed(parts: Parts, kb: KnowledgeBase, *sizes: int, start: bool = True) -> str:
    """A run over sources ``k0``, ``k1`` … that lie nowhere, so many in each batch."""
    run_id, number = str(uuid.uuid4()), 0
    parts.runs.create(run_id, kb.id, RunOptions())
    for batch, size in enumerate(sizes):
        keys = [f"k{number + n}" for n in range(size)]
        parts.runs.add(
            run_id, batch, [(number + n, Source(key=key, origin=key, format="text")) for n, key in enumerate(keys)]
        )
        number += size
    if start:
        parts.runs.start(run_id)
    return run_id


def claimed(parts: Parts, run_id: str, stage: IngestStage = "parse", *, batch: int = 0) -> Lease:
    """A lease that lives for as long as a worker's."""
    lease = parts.batches.claim(Batch(run_id=run_id, number=batch), stage, str(uuid.uuid4()))
    assert lease is not None
    return lease


def died(parts: Parts, run_id: str, stage: IngestStage = "parse", *, batch: int = 0, alone: int | None = None) -> Lease:
    """The lease of a worker that was killed, and whose time has run out; ``alone`` is the item it had in hand."""
    mortal = Batches(parts.engine, lease_seconds=0)
    lease = mortal.claim(Batch(run_id=run_id, number=batch), stage, str(uuid.uuid4()))
    assert lease is not None
    if alone is not None:
        mortal.alone(lease, alone)
    return lease


def expire(parts: Parts, run_id: str) -> None:
    """The time of all leases of this run is up: whoever held one was killed, or is taken for dead."""
    execute(parts, "UPDATE run_batches SET lease_until = now() - interval '1 s' WHERE run_id = :id", id=run_id)


def run_stages(parts: Parts, run_id: str, *names: IngestStage, batch: int = 0) -> None:
    """These stages of one batch, one after the other."""
    for name in names:
        flow.run_stage(name, Batch(run_id=run_id, number=batch), parts)


def counts(parts: Parts, run_id: str) -> Mapping[str, int]:
    """Items of a run by what became of them, or the stage that comes next."""
    progress = parts.runs.progress(run_id)
    ended = {"done": progress.done, "unchanged": progress.unchanged, "failed": progress.failed}
    return {name: count for name, count in {**progress.waiting, **ended}.items() if count}


def live_chunks(parts: Parts, kb: KnowledgeBase) -> set[str]:
    """Ids of the chunks that a reader may see."""
    return set(
        scalars(
            parts,
            "SELECT c.id::text FROM chunks c JOIN documents d ON d.id = c.document_id "
            "AND d.live_generation = c.generation WHERE d.kb_id = :kb",
            kb=kb.id,
        )
    )


def live_texts(parts: Parts, kb: KnowledgeBase) -> list[str]:
    """Texts of the live chunks, sorted."""
    return sorted(parts.passages.texts(kb.id, sorted(live_chunks(parts, kb))).values())


def stored_chunks(parts: Parts, kb: KnowledgeBase) -> set[str]:
    """Ids of the chunks in the vector store."""
    return set(parts.store.chunk_ids(kb.index, timeout=10))


def scalars(parts: Parts, statement: str, **values: object) -> list[str]:
    """The first column of a query."""
    with parts.engine.connect() as connection:
        return list(connection.execute(sa.text(statement), values).scalars())


def execute(parts: Parts, statement: str, **values: object) -> None:
    """Change what no part of Celeriac would."""
    with parts.engine.begin() as connection:
        connection.execute(sa.text(statement), values)


def eventually(look: Callable[[], T], within: float = 20.0) -> T:
    """What ``look`` gives, as soon as it is true; fails after ``within`` seconds."""
    end = time.monotonic() + within
    while not (found := look()):
        if time.monotonic() > end:
            raise AssertionError(f"did not come true in {within} s: {found!r}")
        time.sleep(0.02)
    return found


def answer_of(client: Client, question: Question, within: float = 25.0) -> Answer:
    """The answer, once there is one; raises what the question ended with."""
    found = eventually(lambda: client.result(question.id), within=within)
    assert found is not None
    return found


LONG = " ".join(f"Sentence number {n} tells of the {n}th river." for n in range(30))
"""A text of several chunks."""


def with_(parts: Parts, **replaced: object) -> Parts:
    """The same parts, with some replaced."""
    other = Parts(parts.settings)
    other.__dict__.update({**parts.__dict__, **replaced})
    return other


def found(parts: Parts, kb: KnowledgeBase, text: str) -> list[str]:
    """Texts that a question of keywords finds."""
    question = new_question(text, parts.settings, kb=kb.name, options=AskOptions(alpha=0.0, min_score=0.0, strict=True))
    return [passage.text for passage in ask_flow.retrieve(question, parts).passages]


def consistent(parts: Parts, kb: KnowledgeBase) -> bool:
    """Whether the store holds what readers may see, and nothing else, and no superseded row is left."""
    rows = set(scalars(parts, "SELECT id::text FROM chunks WHERE kb_id = :kb", kb=kb.id))
    return live_chunks(parts, kb) == stored_chunks(parts, kb) == rows


def documents(parts: Parts, kb: KnowledgeBase) -> dict[str, dict[str, object]]:
    """Rows of documents, by the name of their file."""
    return {Path(str(row["key"])).name: row for row in parts.passages.documents(kb.id)}


class Crash(BaseException):
    """The worker dies here: nothing of ours may catch it."""


def crashing(inner: Callable[..., object], *, before: bool) -> Callable[..., object]:
    """``inner`` with a crash before or after it."""

    def call(*arguments: object, **named: object) -> object:
        if not before:
            inner(*arguments, **named)
        raise Crash

    return call


class CountingEmbedder:
    """A real embedder that counts the texts it is given."""

    def __init__(self, parts: Parts) -> None:
        self._inner = parts.embedder
        self.model, self.dimensions = self._inner.model, self._inner.dimensions
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str], *, timeout: float) -> Embeddings:
        """As the real one."""
        self.texts += texts
        return self._inner.embed(texts, timeout=timeout)

    def embed_parts(self, texts: Sequence[str], *, timeout: float) -> Iterator[EmbeddedPart]:
        """As the real one."""
        for part in self._inner.embed_parts(texts, timeout=timeout):
            self.texts += texts[part.first : part.first + len(part.vectors)]
            yield part


class Pad:
    """A sink that keeps what is written: attempts and pieces, in order."""

    def __init__(self) -> None:
        self.attempts: list[int] = []
        self.pieces: list[str] = []

    def open(self, question_id: str, attempt: int) -> AnswerWriter:
        """A new attempt."""
        self.attempts.append(attempt)
        return self

    def write(self, text: str) -> None:
        """Keep a piece."""
        self.pieces.append(text)

    def flush(self) -> None:
        """Nothing is held back."""
