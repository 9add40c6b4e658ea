"""All settings: one object, read once, from the environment.

Names that the world already knows are used as they are (``REDIS_URL``, ``DATABASE_URL``,
``WEAVIATE_URL``, ``OPENAI_API_KEY``, ``OPENAI_BASE_URL``); all others start with ``CELERIAC_``.
An unknown ``CELERIAC_`` name is refused: a typing mistake must not pass for a default.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pipeline.errors import BadSettings
from pipeline.types import StoreName

PREFIX = "CELERIAC_"
OFFLINE_EMBEDDER = "wordllama-256"
OFFLINE_GENERATOR = "extractive"

# What redis-py and Celery read alike: each takes, or falls over, more than that in its own way.
_REDIS_URL = re.compile(r"rediss?://([^/?#@]*@)?(\[[^]/?#@]+\]|[^:/?#@]+)?(:\d{1,5})?(/\d*)?(\?\S*)?")


def _known(name: str) -> Any:
    return Field(default=None, validation_alias=AliasChoices(name))


class Settings(BaseSettings):
    """Every knob, with its default. Seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    # Services. None: the embedded one that `manage.py up` starts.
    redis_url: SecretStr | None = _known("REDIS_URL")
    database_url: SecretStr | None = _known("DATABASE_URL")
    weaviate_url: str | None = _known("WEAVIATE_URL")
    weaviate_grpc_url: str | None = _known("WEAVIATE_GRPC_URL")
    weaviate_api_key: SecretStr | None = _known("WEAVIATE_API_KEY")
    openai_api_key: SecretStr | None = _known("OPENAI_API_KEY")
    openai_base_url: str | None = _known("OPENAI_BASE_URL")

    home: Path = Path(".celeriac")
    """Folder of the embedded services: data, logs, pids."""
    namespace: str = "celeriac"
    """Prefix of every Redis key, so that several installations can share one server."""

    # Parts. None: chosen by what is configured (OpenAI where a key or a base URL is set, else offline).
    store: StoreName | None = None
    embedding_model: str | None = None
    embedding_dimensions: int | None = Field(default=None, ge=1, le=4000)
    chat_model: str | None = None
    rerank_model: str | None = None
    rerank_url: str | None = None
    rerank_api_key: SecretStr | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    prices: Annotated[dict[str, tuple[float, float]], NoDecode] = {}
    """USD per million input and output tokens by model, over the built-in list."""

    # Retrieval
    top_k: int = Field(default=5, ge=1, le=100)
    candidates: int = Field(default=50, ge=1, le=1000)
    """Chunks each branch looks up before fusion."""
    alpha: float | None = Field(default=None, ge=0, le=1)
    """Weight of the vector branch. None: the embedding model's own default."""
    min_score: float | None = Field(default=None, ge=0, le=1)
    """Fused score below which a passage is no evidence. None: the embedding model's own default."""
    keyword_language: str = "english"
    """Postgres text search configuration of the keyword branch."""
    parents: bool = False
    """Answer from the parents of the chunks found, where a question doesn't say."""

    # Chunks
    chunk_tokens: int = Field(default=300, ge=16, le=8000)
    chunk_overlap_tokens: int = Field(default=0, ge=0, le=1000)
    parent_tokens: int = Field(default=1200, ge=0, le=100_000)
    """Largest parent that neighbouring chunks are joined to. 0: none are stored."""
    max_source_bytes: int = Field(default=100_000_000, ge=1)
    max_record_bytes: int = Field(default=10_000_000, ge=1)

    # Sources elsewhere
    fetch_timeout: float = Field(default=30.0, gt=0)
    """One document from a URL or a bucket, redirects and repetitions included."""
    download_timeout: float = Field(default=3600.0, gt=0)
    """One file of records from there, which is copied before its records are listed."""
    max_download_bytes: int = Field(default=20_000_000_000, ge=1)
    allow_private_addresses: bool = False
    """URLs may lead to this machine and to private networks."""
    spool_ttl: float = Field(default=604_800.0, ge=0)
    """Copies of standard input and of downloaded records that are older are removed by the next ingest."""

    # Conversations
    chat_turns: int = Field(default=6, ge=0, le=100)
    """Earlier turns that a follow-up question is read and answered with; 0: none, each stands alone."""
    chat_tokens: int = Field(default=1500, ge=50, le=100_000)
    """Of those turns together, estimated; the oldest are left out first."""

    # Guard
    max_question_chars: int = Field(default=8_000, ge=1)

    # Time
    ask_timeout: float = Field(default=60.0, gt=0, le=3600)
    embed_timeout: float = Field(default=30.0, gt=0)
    question_embed_timeout: float = Field(default=5.0, gt=0)
    """Embedding a question: somebody waits."""
    rewrite_timeout: float = Field(default=10.0, gt=0)
    """Rewriting a follow-up question so that it stands alone."""
    search_timeout: float = Field(default=10.0, gt=0)
    generate_timeout: float = Field(default=60.0, gt=0)
    silence_timeout: float = Field(default=15.0, gt=0)
    """A model that says nothing for so long, at first or in mid-answer, is given up and asked again."""
    silence_least: float = Field(default=2.0, gt=0)
    """Where it usually answers sooner, a first attempt is given up earlier, but not before so many seconds."""
    strict: bool = False
    """Where a question doesn't say: rather an error than a lesser answer when a service is down or time is short."""
    degrade_after: float = Field(default=10.0, ge=0)
    """How long a stage of a question goes on trying before something lesser is done."""
    write_timeout: float = Field(default=60.0, gt=0)
    statement_timeout: float = Field(default=30.0, gt=0)
    connect_timeout: float = Field(default=5.0, gt=0)
    stream_ttl: int = Field(default=3600, ge=60)
    result_ttl: int = Field(default=86_400, ge=60)
    dead_letter_days: float = Field(default=30.0, ge=0)
    """How long a question that failed can be replayed from the stage it failed at."""

    # Caches
    cache: bool = True
    """Where a question doesn't say: it may be given what the same question was given before."""
    cache_ttl: float = Field(default=3600.0, ge=0)
    """How long that is kept in Redis and in each process. 0: not there."""
    cache_stored_ttl: float = Field(default=86_400.0, ge=0)
    """How long what lies in Postgres is given again. 0: not at all."""
    cache_memory_mb: int = Field(default=8, ge=0)
    """What each process keeps of it."""

    # Workers
    database_pool: int = Field(default=10, ge=1)
    redis_connections: int = Field(default=400, ge=20)
    heartbeat_ttl: float = Field(default=10.0, ge=2)
    """A worker silent for so long is dead; what it held is delivered again."""
    sweep_every: float = Field(default=3.0, ge=0.5)
    visibility_timeout: int = Field(default=3600, ge=60)
    hand_over: bool = True
    """A worker goes on with the next stage of a question itself, instead of sending it to a queue."""
    task_events: bool = True
    """Events for Flower; they cost throughput (docs/celery.md)."""
    max_retries: int = Field(default=5, ge=0)
    retry_backoff: float = Field(default=0.5, gt=0)
    retry_backoff_max: float = Field(default=20.0, gt=0)

    # What services and tenants allow
    limits: Annotated[dict[str, tuple[PositiveFloat | None, PositiveFloat | None]], NoDecode] = {}
    """Requests and tokens per minute by model, of all workers together; None: no limit."""
    interactive_share: float = Field(default=0.3, ge=0, lt=1)
    """Share of each limit that bulk work leaves to people."""
    breaker_faults: int = Field(default=8, ge=1)
    """Faults of a service in a row after which it is not called for a while."""
    breaker_seconds: float = Field(default=1.0, gt=0, le=60)
    """How long that while is at first; in vain, it grows up to four times."""
    budget_usd: Annotated[dict[str, NonNegativeFloat], NoDecode] = {}
    """USD per tenant and UTC day; ``*`` is for those not named."""
    budget_tokens: Annotated[dict[str, NonNegativeInt], NoDecode] = {}
    """Tokens per tenant and UTC day, likewise."""

    # Ingest
    parse_timeout: float = Field(default=120.0, gt=0)
    """For reading one document, and for cutting it; one that takes longer fails."""
    parse_memory_mb: int = Field(default=1024, ge=64)
    """What a process of the parse pool may hold beyond what it starts with; a document that needs more fails."""
    max_crashes: int = Field(default=3, ge=1)
    """Workers that a document may take down, alone, before it is given up."""
    ingest_patience: float = Field(default=3600.0, ge=0)
    """How long a batch keeps trying while a service is down or refuses."""
    batch_documents: int = Field(default=256, ge=1)
    batch_tokens: int = Field(default=100_000, ge=1)
    """Estimated from the size of the sources."""
    wave_batches: int = Field(default=8, ge=1)
    waves_at_once: int = Field(default=4, ge=1, le=64)
    """Waves of a run under way side by side; with wave_batches it bounds what the broker holds."""
    embed_batch_texts: int = Field(default=256, ge=1, le=2048)
    embed_batch_tokens: int = Field(default=100_000, ge=1, le=300_000)
    embed_concurrency: int = Field(default=8, ge=1, le=64)
    """Requests at once of one process, as far as the service bears them."""

    log_format: Literal["console", "json"] = "console"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not _REDIS_URL.fullmatch(url.get_secret_value()):
            form = "redis://user:password@host:6379/0, with %XX for special characters in the password"
            raise PydanticCustomError("redis_url", f"It must look like {form}")
        return url

    @field_validator("prices", "limits", "budget_usd", "budget_tokens", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        # Left to pydantic-settings, what is no JSON would be an error of another kind than all other bad values.
        return json.loads(value) if isinstance(value, str) else value

    @property
    def uses_openai(self) -> bool:
        """Whether an OpenAI-compatible service is configured."""
        return self.openai_api_key is not None or self.openai_base_url is not None

    @property
    def store_name(self) -> StoreName:
        """The vector store in use."""
        return self.store or ("weaviate" if self.weaviate_url else "pgvector")

    @property
    def embedder_name(self) -> str:
        """The embedding model in use."""
        default = "text-embedding-3-small" if self.uses_openai else OFFLINE_EMBEDDER
        return self.embedding_model or default

    @property
    def generator_name(self) -> str:
        """The model that answers; ``extractive`` needs none."""
        return self.chat_model or ("gpt-6-luna" if self.uses_openai else OFFLINE_GENERATOR)


def refuse_unknown(environment: Mapping[str, str]) -> None:
    """Raise BadSettings for a ``CELERIAC_`` variable that is no setting, with the nearest name."""
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"Did you mean {near[0]}?" if near else "See docs/settings.md for all names."
            raise BadSettings(f"{name} is not a setting.", hint)


def load(**overrides: Any) -> Settings:
    """Settings from the environment; keyword arguments win. Raises BadSettings in one line."""
    refuse_unknown(os.environ)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        shown = name if name.isupper() else f"{PREFIX}{name}".upper()
        raise BadSettings(f"{shown}: {first['msg']}.", "See docs/settings.md for what it takes.") from None
