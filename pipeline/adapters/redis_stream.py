"""Answers on their way to readers: one Redis Stream per question, with a time to live.

An entry has one field, ``e``, holding JSON: ``["begin", attempt, writer]``, ``["text", piece, writer]``, ``["done"]``
or ``["error", error]``. A writer is a name of its own for each time a worker begins the answer: of two deliveries that
write at once a reader follows the one that began last. The stream of a question is new, so position ``0`` is before its
first entry: a reader that starts late, or again, misses nothing.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from pipeline.errors import BadSettings, CeleriacError, TimedOut, Unreachable
from pipeline.types import AnswerEvent

# Pieces are sent at most this often after the first, and this large: a call per token would cost more than it shows.
_EVERY = 0.03
_AT_MOST = 2000
_LONGEST = 10_000


def make_client(url: str, *, connections: int, connect_timeout: float) -> redis.Redis:
    """A client whose pool waits for a free connection instead of failing, and notices a dead server."""
    try:
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=connect_timeout,
            socket_connect_timeout=connect_timeout,
            socket_timeout=30,
            socket_keepalive=True,
            health_check_interval=30,
        )
    except ValueError:  # its text may hold a part of the password
        raise BadSettings("REDIS_URL is not a URL of Redis.", "It looks like redis://host:6379/0.") from None
    return redis.Redis(connection_pool=pool)


class AnswerStreams:
    """The streams of all questions: written by workers, read by whoever asked."""

    def __init__(self, client: redis.Redis, *, namespace: str, ttl: int) -> None:
        """Keys are ``<namespace>:stream:<question id>`` and live ``ttl`` seconds after the last entry."""
        self._client = client
        self._prefix = f"{namespace}:stream:"
        self._ttl = ttl

    def open(self, question_id: str, attempt: int) -> StreamWriter:
        """A writer that announces its attempt: a reader forgets what an earlier one wrote."""
        writer = secrets.token_hex(4)
        self.append(question_id, "begin", attempt, writer)
        return StreamWriter(self, question_id, writer)

    def append(self, question_id: str, kind: str, value: Any = None, writer: str = "") -> None:
        """Add one entry and renew the time to live, in one round trip."""
        key = self._prefix + question_id
        entry = json.dumps([kind] if value is None else [kind, value, writer], ensure_ascii=False)
        with translating(), self._client.pipeline(transaction=False) as pipe:
            pipe.xadd(key, {"e": entry}, maxlen=_LONGEST, approximate=True)
            pipe.expire(key, self._ttl)
            pipe.execute()

    def read(self, question_id: str, position: str, *, block: float) -> list[AnswerEvent]:
        """Entries after ``position``; waits up to ``block`` seconds for the first, and returns none then."""
        with translating():
            found: Any = self._client.xread({self._prefix + question_id: position}, block=max(1, int(block * 1000)))
        if not found:
            return []
        entries = next(iter(found.values()))[0] if isinstance(found, dict) else found[0][1]
        return [_event(entry_id, fields) for entry_id, fields in entries]


class StreamWriter:
    """Sends the first piece at once and joins those that follow quickly."""

    def __init__(self, streams: AnswerStreams, question_id: str, writer: str) -> None:
        """Made by :meth:`AnswerStreams.open`."""
        self._streams = streams
        self._question_id = question_id
        self._writer = writer
        self._pending: list[str] = []
        self._sent = 0.0

    def write(self, text: str) -> None:
        """Take a piece; send what is held back if it is time."""
        self._pending.append(text)
        if time.monotonic() - self._sent >= _EVERY or sum(map(len, self._pending)) >= _AT_MOST:
            self.close()

    def close(self) -> None:
        """Send what is held back."""
        if self._pending:
            self._streams.append(self._question_id, "text", "".join(self._pending), self._writer)
            self._pending.clear()
            self._sent = time.monotonic()


@contextmanager
def translating() -> Iterator[None]:
    """Turn redis-py's errors into ours."""
    detail = {"upstream": "redis"}
    try:
        yield
    except CeleriacError:
        raise
    except redis.exceptions.TimeoutError as error:
        raise TimedOut("Redis gave no answer in time.", "See `manage.py doctor`.", detail) from error
    except (redis.exceptions.ConnectionError, OSError) as error:
        line = str(error).split("\n", 1)[0].rstrip(".")
        raise Unreachable(
            f"Redis can't be reached: {line}.", "Is it running? See `manage.py doctor`.", detail
        ) from error


def _event(entry_id: bytes | str, fields: dict[Any, Any]) -> AnswerEvent:
    raw = next(iter(fields.values()))
    kind, value, writer = [*json.loads(raw), None, ""][:3]
    position = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    return AnswerEvent(kind=kind, value=value, writer=writer or "", position=position)
