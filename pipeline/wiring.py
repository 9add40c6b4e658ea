"""Settings → parts: the composition root, and the only importer of adapters.

Every part is built when it is first asked for, once, and its driver imported only then: a command that needs no
model loads none.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pipeline.cancelling import LocalCancellations
from pipeline.errors import BadSettings
from pipeline.matching import require_match
from pipeline.seams import (
    Bound,
    Cancellations,
    Chunker,
    Embedder,
    Generator,
    Parser,
    RemoteFiles,
    Reranker,
    Retriever,
    VectorStore,
    unbounded,
)
from pipeline.settings import OFFLINE_EMBEDDER, OFFLINE_GENERATOR, Settings
from pipeline.silence import Silences
from pipeline.types import KnowledgeBase, Reading

if TYPE_CHECKING:
    import openai
    import redis
    import sqlalchemy as sa

    from pipeline.adapters.http_reranker import HttpReranker
    from pipeline.adapters.postgres.batches import Batches
    from pipeline.adapters.postgres.conversations import Conversations
    from pipeline.adapters.postgres.dead_letters import DeadLetters
    from pipeline.adapters.postgres.documents import Documents
    from pipeline.adapters.postgres.embeddings import EmbeddingCache
    from pipeline.adapters.postgres.indexes import Indexes
    from pipeline.adapters.postgres.inspection import Inspection
    from pipeline.adapters.postgres.knowledge_bases import KnowledgeBases
    from pipeline.adapters.postgres.passages import Passages
    from pipeline.adapters.postgres.question_cache import QuestionCache
    from pipeline.adapters.postgres.questions import Questions
    from pipeline.adapters.postgres.recent import Recent
    from pipeline.adapters.postgres.runs import Runs
    from pipeline.adapters.postgres.schema import Schema
    from pipeline.adapters.redis_cache import RedisCache
    from pipeline.adapters.redis_flights import RedisFlights
    from pipeline.adapters.redis_stream import AnswerStreams
    from pipeline.adapters.upstreams import Upstreams
    from pipeline.budget import Budget
    from pipeline.caching.caches import Caches
    from pipeline.governor import Kind, Upstream
    from pipeline.leases import LeaseKeeper

T = TypeVar("T")

GOVERNING_TIMEOUT = 1.0
"""Seconds that a call waits for Redis to say whether it may be made."""


class once(Generic[T]):  # noqa: N801 - a decorator, spelled like property
    """A property computed once, also where many greenlets or threads ask for it first at the same time."""

    # One lock for all parts, since parts ask for parts.
    lock = threading.RLock()

    def __init__(self, build: Callable[[Any], T]) -> None:
        """Decorates the method that builds the part."""
        self._build = build
        self.__doc__ = build.__doc__

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> T:
        built = instance.__dict__
        if self._name not in built:
            with self.lock:
                if self._name not in built:
                    built[self._name] = self._build(instance)
        part: T = built[self._name]
        return part


class Parts:
    """What a process works with. One per process: connections are shared by all its threads or greenlets."""

    def __init__(self, settings: Settings) -> None:
        """Builds nothing yet."""
        self.settings = settings
        self.bound_documents: Bound = unbounded
        """What documents are read and cut in; a process made for that bounds the time that each one takes."""
        self._embedders: dict[str, Embedder] = {}

    # ------------------------------------------------------------------ services

    @property
    def redis_url(self) -> str:
        """Where Redis is; raises BadSettings where nobody said."""
        if self.settings.redis_url is None:
            raise BadSettings("No Redis is known.", "Run `manage.py up` first, or set REDIS_URL.")
        return self.settings.redis_url.get_secret_value()

    @property
    def database_url(self) -> str:
        """Where Postgres is; raises BadSettings where nobody said."""
        if self.settings.database_url is None:
            raise BadSettings("No Postgres is known.", "Run `manage.py up` first, or set DATABASE_URL.")
        return self.settings.database_url.get_secret_value()

    @once
    def engine(self) -> sa.Engine:
        """The pool of Postgres connections."""
        return self._engine(self.settings.database_pool)

    @once
    def lease_engine(self) -> sa.Engine:
        """A connection that nothing but the renewal of leases uses: work that takes all others can't cost them."""
        return self._engine(1)

    @once
    def governing_redis(self) -> redis.Redis:
        """The one for what is asked before each call of a service: where Redis hangs, calls go on without it soon."""
        from pipeline.adapters.redis_stream import make_client

        client: redis.Redis = make_client(
            self.redis_url,
            connections=self.settings.redis_connections,
            connect_timeout=min(self.settings.connect_timeout, GOVERNING_TIMEOUT),
            timeout=GOVERNING_TIMEOUT,
        )
        return client

    @once
    def redis(self) -> redis.Redis:
        """The Redis client for Celeriac's own keys (Celery has its own connections)."""
        from pipeline.adapters.redis_stream import make_client

        client: redis.Redis = make_client(
            self.redis_url,
            connections=self.settings.redis_connections,
            connect_timeout=self.settings.connect_timeout,
        )
        return client

    @once
    def streams(self) -> AnswerStreams:
        """Answers while they are written."""
        from pipeline.adapters.redis_stream import AnswerStreams

        return AnswerStreams(self.redis, namespace=self.settings.namespace, ttl=self.settings.stream_ttl)

    @once
    def cancellations(self) -> Cancellations:
        """Which questions were given up; without Redis those of this process alone."""
        if self.settings.redis_url is None:
            return LocalCancellations()
        from pipeline.adapters.redis_cancellations import RedisCancellations

        return RedisCancellations(
            self.redis, namespace=self.settings.namespace, on_record=lambda: self.questions.cancelled()
        )

    # ------------------------------------------------------------------ ledgers

    @once
    def schema(self) -> Schema:
        """The schema of the database, and its migrations."""
        from pipeline.adapters.postgres.schema import Schema

        return Schema(self.engine)

    @once
    def knowledge_bases(self) -> KnowledgeBases:
        """The catalogue of knowledge bases."""
        from pipeline.adapters.postgres.knowledge_bases import KnowledgeBases

        return KnowledgeBases(self.engine)

    @once
    def indexes(self) -> Indexes:
        """Which indexes knowledge bases have."""
        from pipeline.adapters.postgres.indexes import Indexes

        return Indexes(self.engine)

    @once
    def documents(self) -> Documents:
        """Documents as ingest writes them."""
        from pipeline.adapters.postgres.documents import Documents

        return Documents(self.engine)

    @once
    def passages(self) -> Passages:
        """Chunks as readers see them."""
        from pipeline.adapters.postgres.passages import Passages

        return Passages(self.engine)

    @once
    def embeddings(self) -> EmbeddingCache:
        """Vectors paid for already."""
        from pipeline.adapters.postgres.embeddings import EmbeddingCache

        return EmbeddingCache(self.engine)

    @once
    def runs(self) -> Runs:
        """Ingest runs."""
        from pipeline.adapters.postgres.runs import Runs

        return Runs(self.engine)

    @once
    def batches(self) -> Batches:
        """The batches of runs, and leases on them."""
        from pipeline.adapters.postgres.batches import Batches

        return Batches(self.engine, lease_seconds=self.settings.heartbeat_ttl)

    @once
    def leases(self) -> LeaseKeeper:
        """What keeps this process's leases alive."""
        from pipeline.adapters.postgres.batches import Batches
        from pipeline.leases import LeaseKeeper

        ttl = self.settings.heartbeat_ttl
        return LeaseKeeper(Batches(self.lease_engine, lease_seconds=ttl).renew, every=ttl / 4)

    @once
    def inspection(self) -> Inspection:
        """What a vector store is compared with."""
        from pipeline.adapters.postgres.inspection import Inspection

        return Inspection(self.engine)

    @once
    def questions(self) -> Questions:
        """Questions and answers."""
        from pipeline.adapters.postgres.questions import Questions

        return Questions(self.engine)

    @once
    def recent(self) -> Recent:
        """What became of the newest questions."""
        from pipeline.adapters.postgres.recent import Recent

        return Recent(self.engine)

    @once
    def conversations(self) -> Conversations:
        """Conversations, and what was said in them."""
        from pipeline.adapters.postgres.conversations import Conversations

        return Conversations(self.engine)

    @once
    def dead_letters(self) -> DeadLetters:
        """Stages of questions that failed for good."""
        from pipeline.adapters.postgres.dead_letters import DeadLetters

        return DeadLetters(self.engine)

    # ------------------------------------------------------------------ caches

    @once
    def caches(self) -> Caches:
        """What was found and answered before; without Redis that of this process and of Postgres."""
        from pipeline.caching.caches import Caches

        return Caches(
            self.settings,
            catalogue=self.question_cache,
            ledger=self.questions,
            vectors=self.question_cache,
            shared=None if self.settings.redis_url is None else self.redis_cache,
            flights=None if self.settings.redis_url is None else self.flights,
        )

    @once
    def flights(self) -> RedisFlights:
        """Which questions are answered for others as well."""
        from pipeline.adapters.redis_flights import RedisFlights

        return RedisFlights(self.redis, namespace=self.settings.namespace)

    @once
    def redis_cache(self) -> RedisCache:
        """What all processes keep together."""
        from pipeline.adapters.redis_cache import RedisCache

        return RedisCache(self.redis, namespace=self.settings.namespace, ttl=self.settings.cache_ttl)

    @once
    def question_cache(self) -> QuestionCache:
        """What Postgres keeps of questions for others like them."""
        from pipeline.adapters.postgres.question_cache import QuestionCache

        return QuestionCache(self.engine)

    # ------------------------------------------------------------------ models and stores

    @once
    def store(self) -> VectorStore:
        """The vector store in use."""
        if self.settings.store_name == "weaviate":
            return _weaviate(self.settings)
        from pipeline.adapters.pgvector import PgvectorStore

        return PgvectorStore(self.engine, language=self.settings.keyword_language)

    @once
    def retriever(self) -> Retriever:
        """The vector store as questions read it: behind its circuit breaker."""
        from pipeline.governed import GuardedRetriever

        return GuardedRetriever(self.store, self.upstream("store", self.settings.store_name))

    @once
    def openai(self) -> openai.OpenAI:
        """The client of the OpenAI-compatible service."""
        from pipeline.adapters.openai_client import make_client

        key = self.settings.openai_api_key
        if not self.settings.uses_openai:
            raise BadSettings(
                "A model of OpenAI is set, but no service is.", "Set OPENAI_API_KEY, or OPENAI_BASE_URL for another."
            )
        return make_client(
            key.get_secret_value() if key else None, self.settings.openai_base_url, self.settings.connect_timeout
        )

    @once
    def embedder(self) -> Embedder:
        """The embedding model of new knowledge bases."""
        settings = self.settings
        if settings.embedder_name != OFFLINE_EMBEDDER:
            return self._hosted_embedder(settings.embedder_name, settings.embedding_dimensions)
        from pipeline.adapters.wordllama_embedder import WordllamaEmbedder

        return WordllamaEmbedder()

    @once
    def offline_embedder(self) -> Embedder:
        """The embedding model that needs no service."""
        if self.settings.embedder_name == OFFLINE_EMBEDDER:
            return self.embedder
        from pipeline.adapters.wordllama_embedder import WordllamaEmbedder

        return WordllamaEmbedder()

    def embedder_for(self, kb: KnowledgeBase) -> Embedder:
        """The embedding model that the knowledge base was built with; raises ModelMismatch where it can't be had."""
        require_match(kb, self.settings)
        if self._is_default(kb):
            return self.embedder
        if kb.embedding_model == OFFLINE_EMBEDDER:
            return self.offline_embedder
        with once.lock:
            if kb.vector_space not in self._embedders:
                self._embedders[kb.vector_space] = self._hosted_embedder(kb.embedding_model, kb.dimensions)
            return self._embedders[kb.vector_space]

    def dimensions_of(self, model: str, dimensions: int | None) -> int:
        """The length of this model's vectors, ``dimensions`` if that is what is asked of it; a service that must be
        asked is. Raises BadSettings where the model can't have so many.
        """
        if model != OFFLINE_EMBEDDER:
            return dimensions or self._hosted_embedder(model, None).dimensions
        own = self.offline_embedder.dimensions
        if dimensions not in (None, own):
            raise BadSettings(f"{model} has {own} dimensions, not {dimensions}.", "Leave --dimensions out.")
        return own

    def _is_default(self, kb: KnowledgeBase) -> bool:
        """Whether the settings name the model of this knowledge base, and its size: no size means the model's own."""
        if kb.embedding_model != self.settings.embedder_name:
            return False
        if kb.embedding_model == OFFLINE_EMBEDDER:
            return True
        from pipeline.adapters.openai_embedder import NATIVE_DIMENSIONS

        own = NATIVE_DIMENSIONS.get(kb.embedding_model, kb.dimensions)
        return kb.dimensions == (self.settings.embedding_dimensions or own)

    def _silences(self, limit: float) -> Silences:
        settings = self.settings
        return Silences(
            limit, settings.silence_least if settings.silence_least < settings.silence_timeout else math.inf
        )

    def _hosted_embedder(self, model: str, dimensions: int | None) -> Embedder:
        from pipeline.adapters.openai_embedder import OpenAIEmbedder

        return OpenAIEmbedder(
            self.openai,
            model,
            dimensions,
            max_texts=self.settings.embed_batch_texts,
            max_tokens=self.settings.embed_batch_tokens,
            concurrency=self.settings.embed_concurrency,
            pace=self.upstreams.pace(model),
            upstream=self.upstream("embedding", model),
            silences=self._silences(math.inf),
        )

    @once
    def generator(self) -> Generator:
        """What writes the answers."""
        if self.settings.generator_name == OFFLINE_GENERATOR:
            return self.extractive
        from pipeline.adapters.openai_generator import OpenAIGenerator
        from pipeline.governed import GovernedGenerator

        model = self.settings.generator_name
        inner = OpenAIGenerator(
            self.openai,
            model,
            reasoning_effort=self.settings.reasoning_effort,
            verbosity=self.settings.verbosity,
            prices=self.settings.prices,
            silences=self._silences(self.settings.silence_timeout),
        )
        return GovernedGenerator(inner, model, lambda name: self.upstream("chat", name))

    @once
    def extractive(self) -> Generator:
        """What answers without a model, of necessity or because none is set."""
        from pipeline.adapters.extractive import ExtractiveGenerator

        return ExtractiveGenerator(self.offline_embedder)

    @once
    def reranker(self) -> Reranker | None:
        """What orders passages anew; None: the fused order stands."""
        if self.settings.rerank_url is None:
            return None
        from pipeline.governed import GuardedReranker

        return GuardedReranker(self.http_reranker, self.upstream("reranker", self.settings.rerank_model or ""))

    @once
    def http_reranker(self) -> HttpReranker:
        """The client of the service that reranks."""
        from pipeline.adapters.http_reranker import HttpReranker

        key = self.settings.rerank_api_key
        return HttpReranker(
            self.settings.rerank_url or "",
            self.settings.rerank_model or "",
            key.get_secret_value() if key else None,
            self.settings.connect_timeout,
        )

    # ------------------------------------------------------------------ the governor

    @once
    def upstreams(self) -> Upstreams:
        """What all workers share about the services that questions and ingest call."""
        from pipeline.adapters.upstreams import Upstreams

        # Without one, as for a command that runs without a broker, this process is alone.
        return Upstreams(self.settings, None if self.settings.redis_url is None else self.governing_redis)

    def upstream(self, kind: Kind, model: str) -> Upstream:
        """The governor of one service and model, in which every call of a question is made."""
        return self.upstreams.get(kind, model)

    @once
    def budget(self) -> Budget | None:
        """What tenants may spend; None: as much as they like."""
        usd, tokens = self.settings.budget_usd, self.settings.budget_tokens
        if not usd and not tokens:
            return None
        from pipeline.adapters.postgres.spending import Spending
        from pipeline.budget import Budget

        ledger = Spending(self.engine)
        if self.settings.redis_url is None:
            return Budget(usd, tokens, ledger, None)
        from pipeline.adapters.redis_budget import RedisSpendingCounter

        return Budget(usd, tokens, ledger, RedisSpendingCounter(self.redis, namespace=self.settings.namespace))

    # ------------------------------------------------------------------ documents

    @once
    def parsers(self) -> Mapping[str, Parser]:
        """Parsers by format."""
        from pipeline.adapters.parsers import all_parsers

        return all_parsers()

    @once
    def chunker(self) -> Chunker:
        """What cuts documents."""
        from pipeline.adapters.chunker import TokenChunker

        return TokenChunker(self.settings.chunk_tokens, self.settings.chunk_overlap_tokens)

    @once
    def remotes(self) -> Mapping[str, RemoteFiles]:
        """What reads URLs, by scheme; the one under '' reads those of buckets."""
        from pipeline.adapters.bucket_files import BucketFiles
        from pipeline.adapters.http_files import HttpFiles

        settings = self.settings
        http = HttpFiles(connect_timeout=settings.connect_timeout, allow_private=settings.allow_private_addresses)
        return {"http": http, "https": http, "": BucketFiles()}

    @property
    def reading(self) -> Reading:
        """How sources are read; a change of it makes every document count as changed."""
        settings = self.settings
        cut = f"{settings.chunk_tokens}/{settings.chunk_overlap_tokens}/{settings.parent_tokens}"
        return Reading(
            max_bytes=settings.max_source_bytes,
            max_record_bytes=settings.max_record_bytes,
            fetch_timeout=settings.fetch_timeout,
            fingerprint=cut,
        )

    # ------------------------------------------------------------------ life

    def warm_up(self) -> None:
        """Build what a worker needs before its first task comes. Calls no service."""
        _ = (self.knowledge_bases, self.passages, self.questions, self.streams, self.retriever)
        _ = (self.embedder, self.generator, self.reranker, self.caches)
        if self.settings.embedder_name == OFFLINE_EMBEDDER:
            self.embedder.embed(["The first text loads the model."], timeout=self.settings.embed_timeout)

    def connect(self, count: int) -> None:
        """Open so many connections to Postgres, if there are not as many; they stay for who needs one."""
        from pipeline.adapters.postgres.engine import translating

        with translating(), contextlib.ExitStack() as held:
            for _ in range(count):
                held.enter_context(self.engine.connect())

    def close(self) -> None:
        """Write what waits to be written, and give back connections."""
        if "caches" in self.__dict__:
            self.caches.flush()
        for name in ("cancellations", "store", "openai", "http_reranker"):
            part = self.__dict__.get(name)
            if part is not None and hasattr(part, "close"):
                part.close()
        for name in ("redis", "governing_redis"):
            if name in self.__dict__:
                self.__dict__[name].close()
        for name in ("engine", "lease_engine"):
            if name in self.__dict__:
                self.__dict__[name].dispose()

    def _engine(self, pool: int) -> sa.Engine:
        from pipeline.adapters.postgres.engine import make_engine

        return make_engine(
            self.database_url,
            pool=pool,
            connect_timeout=self.settings.connect_timeout,
            statement_timeout=self.settings.statement_timeout,
        )


def _weaviate(settings: Settings) -> VectorStore:
    from pipeline.adapters.weaviate import WeaviateStore

    if settings.weaviate_url is None:
        raise BadSettings("The store is Weaviate, but no server is known.", "Set WEAVIATE_URL.")
    key = settings.weaviate_api_key
    return WeaviateStore(
        settings.weaviate_url,
        grpc_url=settings.weaviate_grpc_url,
        api_key=key.get_secret_value() if key else None,
        connect_timeout=settings.connect_timeout,
        language=settings.keyword_language,
    )
