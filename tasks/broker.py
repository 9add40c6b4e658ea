"""Redis as broker and result backend: its errors in our terms, and what its queues hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kombu.exceptions
import redis.exceptions

import celeryconfig
from pipeline.errors import CeleriacError, Unreachable
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
    prefix = celeryconfig.broker_transport_options["global_keyprefix"]
    with reaching_redis():
        workers = heartbeat.reports(parts)
        depths: list[Any] = [parts.redis.llen(f"{prefix}{name}") for name in names]
    return [
        QueueState(name=name, waiting=depth, consumers=sum(name in worker.queues for worker in workers))
        for name, depth in zip(names, depths, strict=True)
    ]


@contextmanager
def reaching_redis() -> Iterator[None]:
    """Turn the errors of kombu and redis-py into Unreachable."""
    try:
        yield
    except CeleriacError:
        raise
    except (kombu.exceptions.OperationalError, redis.exceptions.RedisError, OSError) as error:
        line = str(error).split("\n", 1)[0].rstrip(".")
        hint = "Is it running? See `manage.py doctor`."
        raise Unreachable(f"Redis can't be reached: {line}.", hint, {"upstream": "redis"}) from error
