"""The values that cross stages: frozen, strict, and the same after a trip through JSON.

What rides in a message is small: ids, scores and locations. Texts stay in Postgres; a query's vector
rides from ``embed`` to ``search`` and no further.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import CeleriacError

Vector = NDArray[np.float32]

Fusion = Literal["scores", "rrf"]
StoreName = Literal["pgvector", "weaviate"]
Outcome = Literal["answered", "not_in_knowledge_base"]
AnswerMode = Literal["generated", "extractive", "none"]
QuestionStatus = Literal["queued", "done", "failed", "cancelled"]
RunStatus = Literal["discovering", "running", "done", "failed", "cancelled"]
RunKind = Literal["ingest", "reembed"]
IngestStage = Literal["parse", "chunk", "embed", "upsert"]


class Value(BaseModel):
    """Base of all values that cross a stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def encode(self) -> dict[str, Any]:
        """The value as plain JSON types, defaults left out to keep messages small."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def decode(cls, data: Any) -> Self:
        """The value back from :meth:`encode`."""
        return cls.model_validate(data)


# --------------------------------------------------------------------------- knowledge bases


class IndexRef(Value):
    """Where the vectors of one knowledge base live: the key of every call to a vector store.

    No query exists without it, so nothing can be read across knowledge bases.
    """

    kb_id: str
    model: str
    dimensions: int

    @property
    def vector_space(self) -> str:
        """What makes two vectors comparable: model and size. The key of vectors in the cache."""
        return f"{self.model}/{self.dimensions}"


class KnowledgeBase(Value):
    """A named collection of documents of one tenant, embedded by one model into one store; ``chunks`` is how many it
    held when its last run ended (while the first one goes on: about how many there are).

    Questions are answered from ``index``. ``building`` is the index of another model that is to take its place: what is
    written goes there too. ``previous`` is the one it has replaced: nothing is added to it any more.
    """

    id: str
    tenant: str
    name: str
    embedding_model: str
    dimensions: int
    store: StoreName
    created_at: datetime
    chunks: int = 0
    building: IndexRef | None = None
    previous: IndexRef | None = None

    @property
    def vector_space(self) -> str:
        """What makes two vectors comparable: model and size. The key of vectors in the cache."""
        return self.index.vector_space

    @property
    def index(self) -> IndexRef:
        """The address of its vectors."""
        return IndexRef(kb_id=self.id, model=self.embedding_model, dimensions=self.dimensions)

    @property
    def indexes(self) -> tuple[IndexRef, ...]:
        """Where new chunks are written: the index that answers, and the one that is being built."""
        return (self.index,) if self.building is None else (self.index, self.building)

    @property
    def all_indexes(self) -> tuple[IndexRef, ...]:
        """Where chunks may be, and must be taken out."""
        kept = self.indexes
        return kept if self.previous is None or self.previous in kept else (*kept, self.previous)

    def served_from(self, index: IndexRef) -> Self:
        """The same knowledge base as if ``index`` were its only one."""
        changes = {"embedding_model": index.model, "dimensions": index.dimensions, "building": None, "previous": None}
        return self.model_copy(update=changes)


# --------------------------------------------------------------------------- retrieval


class Hit(Value):
    """One chunk found by one branch; ``score`` is the branch's own (cosine similarity, or BM25)."""

    chunk_id: str
    score: float


class ScoredChunk(Value):
    """One chunk after fusion. ``score`` is in [0, 1]; a branch that missed it left None."""

    chunk_id: str
    score: float
    vector_score: float | None = None
    keyword_score: float | None = None


class Passage(Value):
    """A chunk with its place in its document. ``start`` and ``end`` are character offsets
    (Unicode code points, end exclusive) into the document's parsed text; ``text`` is empty while it travels.

    Where an answer is written from parents, place and text are those of the chunk's parent.
    """

    chunk_id: str
    document_id: str
    title: str = ""
    source: str = ""
    page: int | None = None
    section: str = ""
    start: int = 0
    end: int = 0
    score: float = 0.0
    vector_score: float | None = None
    keyword_score: float | None = None
    text: str = ""


class Parent(NamedTuple):
    """What may be read in a chunk's place: ``text`` is the document's text[start:end]."""

    start: int
    end: int
    text: str


# --------------------------------------------------------------------------- asking


class AskOptions(Value):
    """What a question may ask for; None means the setting's or the model's default.

    ``parents``: what is read, shown to the model and cited are the parents of the chunks found.
    """

    top_k: int = Field(default=5, ge=1, le=100)
    min_score: float | None = Field(default=None, ge=0.0, le=1.0)
    alpha: float | None = Field(default=None, ge=0.0, le=1.0)
    fusion: Fusion = "scores"
    parents: bool = False
    model: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None


class Question(Value):
    """A question as its owner put it. Times are Unix seconds; ``epoch`` counts resubmissions."""

    id: str
    text: str
    tenant: str = "default"
    kb: str = "default"
    options: AskOptions = AskOptions()
    submitted_at: float
    deadline: float
    epoch: int = 0


class Flag(Value):
    """A suspicion that the guard reports and does not act upon."""

    rule: str
    where: str
    excerpt: str


class StageTiming(Value):
    """How long one stage waited for a worker and ran, in milliseconds."""

    stage: str
    queue_ms: float = 0.0
    run_ms: float = 0.0
    worker: str = ""
    attempt: int = 1


class Usage(Value):
    """Tokens and money of one question or one call; ``cost_usd`` is None where the price is unknown."""

    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    embedding_tokens: int = 0
    cost_usd: float | None = None


class Citation(Value):
    """What a marker ``[number]`` in the answer points to; ``quote`` is text[start:end] of the document."""

    number: int
    chunk_id: str
    document_id: str
    title: str = ""
    source: str = ""
    page: int | None = None
    section: str = ""
    start: int = 0
    end: int = 0
    quote: str = ""


class Answer(Value):
    """The final result of a question."""

    question_id: str
    outcome: Outcome
    mode: AnswerMode
    text: str
    citations: tuple[Citation, ...] = ()
    passages: tuple[Passage, ...] = ()
    flags: tuple[Flag, ...] = ()
    degraded: tuple[str, ...] = ()
    timings: tuple[StageTiming, ...] = ()
    usage: Usage = Usage()


class AskState(Value):
    """What one stage of a question hands to the next. Who sets what:

    guard: ``kb``, ``flags`` · embed: ``vector`` · search: ``hits`` (and drops ``vector``) ·
    enrich, rerank: ``passages`` (and drop ``hits``) · generate: ``answer`` ·
    whoever runs a stage: ``timings`` and ``handed_over`` (Unix seconds), from which the next one's wait is known.
    """

    question: Question
    kb: KnowledgeBase | None = None
    flags: tuple[Flag, ...] = ()
    vector: str | None = None
    embedding_tokens: int = 0
    hits: tuple[ScoredChunk, ...] = ()
    passages: tuple[Passage, ...] = ()
    answer: Answer | None = None
    degraded: tuple[str, ...] = ()
    timings: tuple[StageTiming, ...] = ()
    handed_over: float = 0.0

    def but(self, **changes: Any) -> Self:
        """A copy with these fields changed; the values are trusted to be of the right type."""
        return self.model_copy(update=changes)


class AnswerEvent(Value):
    """One thing that happened to an answer while it was written; ``position`` is where a reader goes on from.

    ``begin``: an attempt starts, its number is ``value``, and what came before is void · ``text``: a piece ·
    ``done`` · ``error``: the error's JSON. ``writer`` tells deliveries apart that write at the same time.
    """

    kind: Literal["begin", "text", "done", "error"]
    value: Any = None
    writer: str = ""
    position: str


def pack_vector(vector: Vector) -> str:
    """A vector as base64 of little-endian float32: a quarter of its size as JSON numbers."""
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode("ascii")


def unpack_vector(packed: str) -> Vector:
    """The vector back from :func:`pack_vector`; shape (dimensions,)."""
    return np.frombuffer(base64.b64decode(packed), dtype="<f4").astype(np.float32)


# --------------------------------------------------------------------------- ingesting


class RecordFields(Value):
    """Which columns of a record (JSON line, CSV row) are what; empty means: guess by the usual names."""

    text: tuple[str, ...] = ()
    title: str = ""
    id: str = ""
    aliases: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()


class Source(Value):
    """One document to be: a whole file, or a record inside one.

    ``key`` identifies it within its knowledge base; ``origin`` is where it comes from, for people and for pruning.
    ``spooled`` is the copy that is read in its place, if there is one.
    ``offset`` and ``length`` are bytes and tell a record's place; a whole file has neither.
    """

    key: str
    origin: str
    format: str
    offset: int | None = None
    length: int | None = None
    columns: tuple[str, ...] = ()
    spooled: str = ""

    @property
    def file(self) -> str:
        """What is opened to read it: a path or a URL, spelled as origins are."""
        return self.spooled or self.origin


class Block(Value):
    """A stretch ``text[start:end]`` of a parsed document that lies on one page and in one section."""

    start: int
    end: int
    page: int | None = None
    section: str = ""


class ParsedDocument(Value):
    """The text of a document and what is known about its parts; ``blocks`` are in order, may be empty.

    ``aliases`` are other names of what it is about, ``metadata`` is kept and shown as it is.
    """

    text: str
    title: str = ""
    blocks: tuple[Block, ...] = ()
    aliases: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}


class Chunk(Value):
    """A piece of a document: ``text`` is exactly ``document.text[start:end]``."""

    ordinal: int
    text: str
    start: int
    end: int
    page: int | None = None
    section: str = ""
    tokens: int = 0


class IndexEntry(BaseModel):
    """One chunk on its way into a vector store; ``keywords`` is the text the keyword branch ranks.

    Not a :class:`Value`: it holds an array and never rides in a message.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    chunk_id: str
    document_id: str
    generation: int
    vector: Vector
    keywords: str


class DraftChunk(Value):
    """A chunk about to be stored. ``context`` (title and section) goes before ``text`` in what is embedded
    and ranked; ``embed_hash`` is the hex SHA-256 of the two together. ``parent_start`` and ``parent_end``, offsets as
    ``start`` and ``end`` are, hold the chunk and neighbours of it.
    """

    id: str
    document_id: str
    generation: int
    ordinal: int
    text: str
    context: str = ""
    start: int
    end: int
    page: int | None = None
    section: str = ""
    tokens: int = 0
    embed_hash: str = ""
    parent_start: int | None = None
    parent_end: int | None = None


class StoredChunk(NamedTuple):
    """Of a chunk in Postgres what goes into an index. A tuple, not a :class:`Value`: each is read for two stages."""

    id: str
    document_id: str
    generation: int
    context: str
    text: str
    embed_hash: str

    @property
    def indexed_text(self) -> str:
        """What is embedded and ranked: title and section often hold the words that are asked for."""
        return indexed_text(self.context, self.text)


def indexed_text(context: str, text: str) -> str:
    """A chunk's text after its context, if it has one."""
    return f"{context}\n{text}" if context else text


class Draft(Value):
    """A new generation of a document: parsed, on its way to being searchable."""

    document_id: str
    generation: int
    title: str
    content_hash: str
    text: str
    blocks: tuple[Block, ...] = ()
    aliases: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}


class Reading(Value):
    """How sources are read: the largest file and the largest record in bytes, the seconds that a remote one may take,
    and what decides how they are cut.
    """

    max_bytes: int
    max_record_bytes: int
    fetch_timeout: float = 30.0
    fingerprint: str


class RunOptions(Value):
    """What a run was asked to do. ``roots`` are the paths given, as the sources' origins spell them; ``model`` and
    ``dimensions`` are those of the index that a run of kind ``reembed`` builds.
    """

    roots: tuple[str, ...] = ()
    fields: RecordFields = RecordFields()
    prune: bool = False
    model: str = ""
    dimensions: int = 0


class Run(Value):
    """One ingest, or one building of a second index for another embedding model."""

    id: str
    kb: KnowledgeBase
    status: RunStatus
    options: RunOptions
    kind: RunKind = "ingest"
    pruned: int = 0
    error: dict[str, Any] | None = None

    @property
    def target(self) -> IndexRef:
        """The index that a run of kind ``reembed`` builds."""
        return IndexRef(kb_id=self.kb.id, model=self.options.model, dimensions=self.options.dimensions)


class RunSummary(Value):
    """One line of the list of runs; ``items`` counts sources, ``over`` those that have reached an end."""

    id: str
    kind: RunKind
    tenant: str
    kb: str
    status: RunStatus
    items: int
    over: int
    failed: int
    created_at: datetime
    finished_at: datetime | None


class Progress(Value):
    """How far a run is, in sources: ``waiting`` counts those that are not over by the stage that comes next."""

    waiting: dict[IngestStage, int] = {}
    done: int = 0
    unchanged: int = 0
    failed: int = 0
    chunks: int = 0
    embedded: int = 0

    @property
    def over(self) -> int:
        """Sources that have reached an end."""
        return self.done + self.unchanged + self.failed

    @property
    def total(self) -> int:
        """All sources of the manifest."""
        return self.over + sum(self.waiting.values())


class Failure(Value):
    """Why one source of a run failed: the error's JSON flattened, with the stage and the attempt it happened at."""

    number: int
    document: str
    stage: str
    attempt: int
    code: str
    message: str
    hint: str = ""
    http_status: int | None = None
    retryable: bool = False
    failed_at: datetime


class RunItem(Value):
    """One source of a run that is not over; ``crashes`` counts the workers that died while they had it alone."""

    number: int
    key: str
    source: Source
    document_id: str | None = None
    generation: int | None = None
    crashes: int = 0

    @property
    def version(self) -> tuple[str, int]:
        """The (document, generation) pair that it has become; there is none before it is parsed."""
        return str(self.document_id), self.generation or 0


class Batch(Value):
    """The share of a run that one chain of ingest tasks carries: its items are rows in Postgres.

    ``bulk``: the run is large, and smaller ones may overtake it.
    """

    run_id: str
    number: int
    bulk: bool = False


class Lease(Value):
    """A worker's hold on a batch for one stage. ``fence`` grows with every lease: only the newest may write.

    ``deaths`` counts the holders before it that died at this stage, ``crash`` is what is known of the last one's end.
    """

    batch: Batch
    stage: IngestStage
    holder: str
    fence: int
    first_item: int
    last_item: int
    deaths: int = 0
    crash: str = ""


class Wave(Value):
    """What a lane sends next: batches with the stage each is at. Empty and ``last``: nothing is left in the run.

    ``bulk``: the run has more batches than fit into one wave.
    """

    batches: tuple[tuple[int, IngestStage], ...] = ()
    last: bool = False
    bulk: bool = False


class BatchOutcome(BaseModel):
    """What a stage made of the items of a batch, by item number; those not named go on to the next stage.

    ``versions`` are the (document, generation) pairs that items were given; ``chunks`` and ``embedded`` are counts.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    versions: dict[int, tuple[str, int]] = {}
    unchanged: tuple[int, ...] = ()
    failed: dict[int, CeleriacError] = {}
    done: tuple[int, ...] = ()
    chunks: int = 0
    embedded: int = 0

    @property
    def over(self) -> int:
        """How many items have reached an end."""
        return len(self.unchanged) + len(self.failed) + len(self.done)


# --------------------------------------------------------------------------- checking

ChunkStanding = Literal["live", "pending", "superseded", "abandoned"]
"""Of the generation that a chunk belongs to. ``pending``: a run may still be at work on it, or go on with it."""


class ChunkRow(NamedTuple):
    """A chunk as Postgres has it. A tuple, not a :class:`Value`: a million of them pass through a check."""

    chunk_id: str
    document_id: str
    generation: int
    live: bool


class ChunkState(NamedTuple):
    """How a chunk stands at this moment; ``document`` is the document's key, ``embed_hash`` hex."""

    document_id: str
    document: str
    generation: int
    embed_hash: str
    standing: ChunkStanding


class DocumentFault(NamedTuple):
    """A document that Postgres has wrong: its count of chunks, or it is live and has none (``empty``)."""

    kind: Literal["wrong_count", "empty"]
    document_id: str
    document: str
    detail: str


class Leftover(NamedTuple):
    """A generation that no reader sees and no run will go on with; ``document`` is the document's key."""

    document_id: str
    generation: int
    document: str
