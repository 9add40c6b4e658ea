"""Redis as broker and result backend: its errors in our terms, and what its queues hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kombu.exceptions
import redis.exceptions

import celeryconfig
from pipeline.errors import CeleriacError, Unreachable, in_a_line
from pipeline.types import Value
from pipeline.wiring import Parts
from tasks import heartbeat


class QueueState(Value):
    """A queue: messages that wait in it, messages its workers hold, and how many workers listen."""

    name: str
    waiting: int
    consumers: int

    @property
    def is_deaf(self) -> bool:
        """Whether messages wait and nobody listens: they would wait for ever."""
        return self.waiting > 0 and self.consumers == 0


def queues(parts: Parts) -> list[QueueState]:
    """The state of every queue, in the order of ``celeryconfig``."""
    names = [queue.name for queue in celeryconfig.task_queues]
    with reaching_redis():
        workers = heartbeat.reports(parts)
        depths = [sum(_length(key, parts) for key in keys_of(name)) for name in names]
    return [
        QueueState(name=name, waiting=depth, consumers=sum(name in worker.queues for worker in workers))
        for name, depth in zip(names, depths, strict=True)
    ]


def keys_of(queue: str) -> list[str]:
    """The Redis lists of one queue: one per priority, the most urgent first (as kombu names them)."""
    options: dict[str, Any] = celeryconfig.broker_transport_options
    suffixes = ["", *(f"{options['sep']}{step}" for step in options["priority_steps"][1:])]
    return [f"{options['global_keyprefix']}{queue}{suffix}" for suffix in suffixes]


def _length(key: str, parts: Parts) -> int:
    length: Any = parts.redis.llen(key)
    return int(length)


@contextmanager
def reaching_redis() -> Iterator[None]:
    """Turn the errors of kombu and redis-py into Unreachable."""
    try:
        yield
    except CeleriacError:
        raise
    except (kombu.exceptions.OperationalError, redis.exceptions.RedisError, OSError) as error:
        hint = "Is it running? See `manage.py doctor`."
        raise Unreachable(f"Redis can't be reached: {in_a_line(error)}.", hint, {"upstream": "redis"}) from error
