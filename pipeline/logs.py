"""Logs: one event a line, JSON in production, with the id of the run or question on every line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import structlog

# Celery's own lines on each task hold its arguments or its result, so questions and answers: stages log for themselves.
_NOISY = (
    *("httpx", "httpx2", "httpcore", "httpcore2", "openai", "alembic", "kombu", "amqp"),
    "psycopg",  # gives itself a level of its own, whatever ours is
    *("celery.worker.strategy", "celery.app.trace", "celery.beat"),
)
# Each says what the error that is raised says, too: one with whole objects, text and vector, where a part failed; one
# whenever Ctrl-C comes in the middle of a statement.
_SILENT = ("weaviate-client", "psycopg.transaction")


def configure(log_format: Literal["console", "json"], level: str) -> None:
    """Send structlog's and the standard library's records through one formatter to standard error."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if log_format == "json"
        # Not its own way with tracebacks: that prints local variables, so questions and keys, and takes long.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *([structlog.processors.format_exc_info] if log_format == "json" else []),
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
    for silent in _SILENT:
        logging.getLogger(silent).setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


@contextmanager
def correlated(**ids: str) -> Iterator[None]:
    """Put these ids on every line logged inside, in this thread or greenlet."""
    with structlog.contextvars.bound_contextvars(**ids):
        yield
