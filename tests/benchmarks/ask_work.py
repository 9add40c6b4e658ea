"""What an ``ask`` worker computes at a moment, from the frames of its stack: for whom, and in which library.

A sample is named ``<work>|<library>``. Both come from the innermost frame that says so: a frame of redis-py says in
which library the time is spent; whether a stream, a result or the broker wanted it, a frame further out says.
"""

from __future__ import annotations

from types import FrameType

_WORK = (
    ("/pipeline/adapters/redis_stream", "stream"),
    ("/pipeline/adapters/openai_embedder", "embedding"),
    ("/pipeline/adapters/openai_generator", "answer"),
    ("/pipeline/adapters/pgvector/", "search"),
    ("/pipeline/adapters/weaviate/", "search"),
    ("/pipeline/adapters/postgres/connection", ""),  # these work for the ledger and for pgvector
    ("/pipeline/adapters/postgres/engine", ""),
    ("/pipeline/adapters/postgres/", "ledger"),
    ("/pipeline/retrieve/search", "search"),
    ("/pipeline/adapters/http_", ""),  # these work for the embedder and the generator
    ("/pipeline/adapters/openai_client", ""),
    ("/pipeline/silence", ""),
    ("/pipeline/losses", ""),
    ("/pipeline/adapters/redis_flights", "caches"),
    ("/pipeline/adapters/redis_cache", "caches"),
    ("/pipeline/caching/", "caches"),
    ("/pipeline/govern", "governor"),
    ("/pipeline/adapters/redis_governor", "governor"),
    ("/pipeline/adapters/redis_pace", "governor"),
    ("/pipeline/", "stages"),
    ("/celery/backends/", "result"),
    ("/tasks/results", "result"),
    ("/celery/events/", "task events"),
    ("/structlog/", "log"),
    ("/logging/", "log"),
    ("/tasks/heartbeat", "heartbeat"),
    ("/tasks/", "stages"),
    ("/celery/canvas", "send"),
    ("/celery/app/amqp", "send"),
    ("/celery/app/base", "send"),
    ("/celery/app/task", "send"),
    ("/kombu/messaging", "send"),
    ("/celery/worker/", "receive"),
    ("/celery/app/trace", "trace"),
    ("/gevent/hub", "hub"),
)
_LIBRARY = (
    ("/openai/", "openai, httpx"),
    ("/httpx2/", "openai, httpx"),
    ("/httpcore2/", "openai, httpx"),
    ("/h11/", "openai, httpx"),
    ("/weaviate/", "weaviate, grpc"),
    ("/grpc/", "weaviate, grpc"),
    ("/sqlalchemy/", "sqlalchemy, psycopg"),
    ("/psycopg", "sqlalchemy, psycopg"),
    ("/redis/", "redis-py"),
    ("/kombu/", "celery, kombu"),
    ("/celery/", "celery, kombu"),
    ("/vine/", "celery, kombu"),
    ("/amqp/", "celery, kombu"),
    ("/pydantic/", "pydantic"),
    ("/json/", "json"),
    ("/structlog/", "logging"),
    ("/logging/", "logging"),
    ("/gevent/", "gevent"),
    ("/concurrent/futures", "threads"),
    ("/threading.py", "threads"),
    ("/pipeline/", "celeriac"),
    ("/tasks/", "celeriac"),
)
_known: dict[str, tuple[str, str]] = {}


def work_of(frame: FrameType | None) -> str:
    """The name of a sample."""
    work = library = ""
    while frame is not None and not (work and library):
        found = _of_file(frame.f_code.co_filename)
        work, library = work or found[0], library or found[1]
        frame = frame.f_back
    return f"{work or 'other'}|{library or 'other'}"


def _of_file(name: str) -> tuple[str, str]:
    if name not in _known:
        _known[name] = _first(name, _WORK), _first(name, _LIBRARY)
    return _known[name]


def _first(name: str, kinds: tuple[tuple[str, str], ...]) -> str:
    return next((kind for part, kind in kinds if part in name), "")
