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

from pipeline.errors import CeleriacError, from_json

Vector = NDArray[np.float32]

Fusion = Literal["scores", "rrf"]
StoreName = Literal["pgvector", "weaviate"]
Outcome = Literal["answered", "not_in_knowledge_base"]
# A follow-up not rewritten by a model; without the reranker; by keywords alone; told to be brief; sentences of the
# passages instead of a model's answer; the answer that the same question had before.
DegradedMode = Literal["no_rewrite", "no_rerank", "keyword_only", "brief", "extractive", "cached"]
CachedResult = Literal["vector", "retrieval", "answer"]
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
    held when its last run ended (while the first one goes on: about how many there are). ``revision`` counts the
    changes of what a question can find in it.

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
    revision: int = 0
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


class Hit(NamedTuple):
    """One chunk found by one branch; ``score`` is the branch's own (cosine similarity, or BM25). A tuple, not a
    :class:`Value`: a question finds a hundred of them, and none leaves its stage.
    """

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

    ``parents``: what is read, shown to the model and cited are the parents of the chunks found. ``strict``: rather an
    error than a lesser answer. ``bulk``: nobody waits for it, so it comes after those somebody waits for, and waits
    itself, to its deadline, for a model whose limit is used up. ``cache``: whether it may be given what the same
    question was given before.
    """

    top_k: int = Field(default=5, ge=1, le=100)
    min_score: float | None = Field(default=None, ge=0.0, le=1.0)
    alpha: float | None = Field(default=None, ge=0.0, le=1.0)
    fusion: Fusion = "scores"
    parents: bool = False
    strict: bool = False
    bulk: bool = False
    cache: bool | None = None
    model: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None


class Replay(Value):
    """Where a question comes from that is asked again: the id of the one before, and the stage this one began at."""

    of: str
    stage: str


class Turn(Value):
    """A question's place in a conversation, by its id. ``number`` counts from 1; 0: it gets the next one on record."""

    conversation: str
    number: int = 0


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
    replay: Replay | None = None
    turn: Turn | None = None

    @property
    def follows_up(self) -> bool:
        """Whether turns of a conversation come before it, which it may refer to."""
        return self.turn is not None and self.turn.number > 1


class Exchange(Value):
    """A turn of a conversation that was answered; ``standalone`` is what its question was rewritten to, if it was."""

    number: int
    question: str
    standalone: str = ""
    answer: str


class Flag(Value):
    """A suspicion that the guard reports and does not act upon."""

    rule: str
    where: str
    excerpt: str


class StageTiming(Value):
    """How long one attempt at a stage waited for a worker and ran, in milliseconds.

    ``error``: of an attempt that failed, code and message in one line · ``cached``: the cache that gave the result.
    """

    stage: str
    queue_ms: float = 0.0
    run_ms: float = 0.0
    worker: str = ""
    attempt: int = 1
    error: str = ""
    cached: str = ""


class Degradation(Value):
    """Something that a question had to do without: at which ``stage``, what it got instead, and why."""

    mode: DegradedMode
    stage: str
    reason: str


USD_DIGITS = 8
"""Decimal places of amounts of money, in memory as on record: a hundred-millionth of a dollar is half an input token of
the cheapest model.
"""


class Usage(Value):
    """Tokens and money of one question or one call; ``cost_usd`` is None where the price is unknown, and has
    ``USD_DIGITS`` decimal places, so that it is the same number before and after it was on record.

    ``estimated_tokens`` are those of the others that no service has counted, see :mod:`pipeline.losses`.
    """

    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    embedding_tokens: int = 0
    estimated_tokens: int = 0
    cost_usd: float | None = None

    @property
    def tokens(self) -> int:
        """All of them, as budgets count."""
        return self.input_tokens + self.output_tokens + self.embedding_tokens

    def plus(self, other: Usage) -> Usage:
        """Both together, under the model of this one, or of the other where this one has none; the cost is known where
        both are.
        """
        known = self.cost_usd is not None and other.cost_usd is not None
        return self.model_copy(
            update={
                "model": self.model or other.model,
                "input_tokens": self.input_tokens + other.input_tokens,
                "output_tokens": self.output_tokens + other.output_tokens,
                "embedding_tokens": self.embedding_tokens + other.embedding_tokens,
                "estimated_tokens": self.estimated_tokens + other.estimated_tokens,
                "cost_usd": round((self.cost_usd or 0.0) + (other.cost_usd or 0.0), USD_DIGITS) if known else None,
            }
        )


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
    """The final result of a question; ``standalone`` is what a follow-up was rewritten to before it was looked for."""

    question_id: str
    outcome: Outcome
    mode: AnswerMode
    text: str
    standalone: str = ""
    citations: tuple[Citation, ...] = ()
    passages: tuple[Passage, ...] = ()
    flags: tuple[Flag, ...] = ()
    degraded: tuple[Degradation, ...] = ()
    timings: tuple[StageTiming, ...] = ()
    usage: Usage = Usage()


class CacheNote(Value):
    """What caches have to do with a question. ``retrieval`` and ``answer`` are the keys of what comes of it,
    ``earlier`` is the question of the same key that was last answered in full, whatever has changed since, and
    ``taken`` what this one was given from a cache. ``leads``: its answer is that of others as well; ``follows`` is the
    question whose answer it waits for.
    """

    retrieval: str
    answer: str
    earlier: str = ""
    taken: CachedResult | None = None
    leads: bool = False
    follows: str = ""


class AskState(Value):
    """What one stage of a question hands to the next. Who sets what:

    guard: ``kb``, ``flags``, ``cache``, and of the following what a cache has ·
    transform: ``standalone`` · embed: ``vector`` · both add to ``spent``, what the question has cost so far ·
    search: ``hits`` (and drops ``vector``) · enrich, rerank: ``passages`` (and drop ``hits``) · generate: ``answer`` ·
    whoever runs a stage: ``timings`` and ``handed_over`` (Unix seconds), from which the next one's wait is known, and
    what failed attempts cost.
    """

    question: Question
    kb: KnowledgeBase | None = None
    flags: tuple[Flag, ...] = ()
    cache: CacheNote | None = None
    standalone: str = ""
    spent: Usage = Usage(cost_usd=0.0)
    vector: str | None = None
    hits: tuple[ScoredChunk, ...] = ()
    passages: tuple[Passage, ...] = ()
    answer: Answer | None = None
    degraded: tuple[Degradation, ...] = ()
    timings: tuple[StageTiming, ...] = ()
    handed_over: float = 0.0

    @property
    def search_text(self) -> str:
        """What is looked for: the question, or what a follow-up means by itself."""
        return self.standalone or self.question.text

    def but(self, **changes: Any) -> Self:
        """A copy with these fields changed; the values are trusted to be of the right type."""
        return self.model_copy(update=changes)

    def without(self, mode: DegradedMode, stage: str, reason: str) -> Self:
        """A copy that says what it had to do without."""
        return self.but(degraded=(*self.degraded, Degradation(mode=mode, stage=stage, reason=reason)))


class QuestionRecord(Value):
    """A question's row: what was asked, and its answer or its error once it is over.

    ``timings`` has all attempts at all stages in their order; of a question that failed, ``passages``, ``flags``,
    ``degraded`` and ``usage`` are as far as it came. ``finished_at`` is in Unix seconds.
    """

    question: Question
    status: QuestionStatus
    kb_id: str | None = None
    answer: Answer | None = None
    error: dict[str, Any] | None = None
    finished_at: float | None = None
    standalone: str = ""
    timings: tuple[StageTiming, ...] = ()
    passages: tuple[Passage, ...] = ()
    flags: tuple[Flag, ...] = ()
    degraded: tuple[Degradation, ...] = ()
    usage: Usage = Usage()

    def outcome(self) -> Answer | None:
        """The answer; None while it is open; raises the error it failed with."""
        if self.error is not None:
            raise from_json(self.error)
        return self.answer


class Conversation(Value):
    """Questions that follow each other, to one knowledge base; ``turns`` counts them, ``title`` is the first one."""

    id: str
    tenant: str
    kb: str
    turns: int
    created_at: datetime
    used_at: datetime
    title: str = ""


class TurnRecord(Value):
    """One question of a conversation, as its owner looks back on it; several may be attempts at the same turn."""

    number: int
    question_id: str
    question: str
    standalone: str = ""
    status: QuestionStatus
    answer: str = ""
    error: dict[str, Any] | None = None
    asked_at: datetime


class StageFailure(Value):
    """The stage that a question failed at, for good, and what this stage was given: enough to run it again.

    ``task`` is empty and ``attempts`` 0 where nobody knows what became of it. The timings in ``state`` are those of all
    attempts, the last one included, and so is what they cost.
    """

    stage: str
    task: str = ""
    attempts: int = 0
    worker: str = ""
    state: AskState

    @property
    def usage(self) -> Usage:
        """What the question has cost."""
        return self.state.answer.usage if self.state.answer else self.state.spent


class DeadLetter(Value):
    """A stage that failed for good, as it rests for whoever mends the cause; ``replayed_as`` is the question that was
    made of it. ``error`` is the question's.
    """

    question_id: str
    tenant: str
    kb: str
    text: str
    stage: str
    task: str
    attempts: int
    worker: str
    error: dict[str, Any]
    failed_at: datetime
    replayed_as: str | None = None


class RecentQuestions(Value):
    """What became of the questions of the last ``seconds``. ``failed`` counts by error code, ``degraded`` by what
    questions did without (one may count twice); the percentiles are of whole answers, None without one.
    """

    seconds: float
    asked: int = 0
    done: int = 0
    open: int = 0
    cancelled: int = 0
    failed: dict[str, int] = {}
    degraded: dict[str, int] = {}
    p50_seconds: float | None = None
    p95_seconds: float | None = None
    tokens: int = 0
    cost_usd: float = 0.0


class AnswerEvent(Value):
    """One thing that happened to an answer while it was written; ``position`` is where a reader goes on from.

    ``begin``: an attempt starts, its number is ``value``, and what came before is void · ``text``: a piece ·
    ``follow``: the answer is written for another question, and read there · ``done`` · ``error``: the error's JSON.
    ``writer`` tells deliveries apart that write at the same time.
    """

    kind: Literal["begin", "text", "follow", "done", "error"]
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
