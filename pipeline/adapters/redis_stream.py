"""Answers on their way to readers: one Redis Stream per question, with a time to live.

An entry has one field, ``e``, holding JSON: ``["begin", attempt, writer]``, ``["text", piece, writer]``,
``["follow", question]``, ``["done"]`` or ``["error", error]``. A writer is a name of its own for each time a worker
begins the answer, or begins again to tell it: of two deliveries that write at once a reader follows the one that began
last. The stream of a question is new, so position ``0`` is before its first entry: a reader that starts late, or again,
misses nothing.

A question whose answer is written for another one has an entry that says so. From there on a reader reads both streams:
what is written in the other one, and the end, or another beginning, in its own. Its position then has both places.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
import structlog

from pipeline.errors import BadSettings, CeleriacError, TimedOut, Unreachable, in_a_line
from pipeline.types import AnswerEvent

_log = structlog.get_logger(__name__)

# Pieces are sent at most this often after the first, and this large: a call per token would cost more than it shows.
# What is held back is told with the next piece, or when the model pauses.
_EVERY = 0.11
_AT_MOST = 2000
# Who waited so long for nothing tells no more: meanwhile the model's answer is not read, and its time goes on.
_TOO_LONG = 1.0
_LONGEST = 10_000


def make_client(url: str, *, connections: int, connect_timeout: float, timeout: float = 30.0) -> redis.Redis:
    """A client whose pool waits for a free connection instead of failing, and notices a dead server, or one that says
    nothing for ``timeout`` seconds.
    """
    try:
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=connect_timeout,
            socket_connect_timeout=connect_timeout,
            socket_timeout=timeout,
            socket_keepalive=True,
            health_check_interval=30,
            **({"connection_class": _Connection} if url.startswith("redis://") else {}),
        )
    except ValueError:  # its text may hold a part of the password
        raise BadSettings("REDIS_URL is not a URL of Redis.", "It looks like redis://host:6379/0.") from None
    return redis.Redis(connection_pool=pool)


class _Connection(redis.Connection):
    """Looks in one call, which never waits, whether it is still good. redis-py polls whenever a connection is borrowed,
    and in a process patched by gevent each poll gives way to other greenlets.
    """

    def can_read(self, timeout: float = 0) -> bool:
        """As the base class, which is asked wherever there may be something to read, or an end."""
        reader = getattr(self._parser, "_reader", None)
        if timeout or self._sock is None or reader is None or reader.has_data():
            return bool(super().can_read(timeout))
        waits = self._sock.gettimeout()
        self._sock.settimeout(0.0)
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        finally:
            self._sock.settimeout(waits)
        return bool(super().can_read(timeout))


class AnswerStreams:
    """The streams of all questions: written by workers, read by whoever asked."""

    def __init__(self, client: redis.Redis, *, namespace: str, ttl: int) -> None:
        """Keys are ``<namespace>:stream:<question id>`` and live ``ttl`` seconds after the last entry."""
        self._client = client
        self._prefix = f"{namespace}:stream:"
        self._ttl = ttl

    def open(self, question_id: str, attempt: int) -> StreamWriter:
        """A writer that announces its attempt: a reader forgets what an earlier one wrote. Redis need not be there."""
        writer = StreamWriter(self, question_id, attempt, renew_every=self._ttl / 4)
        writer.flush()
        return writer

    def append(self, question_id: str, kind: str, value: Any = None) -> None:
        """Add one entry and renew the time to live, in one round trip."""
        self._add(question_id, [kind] if value is None else [kind, value, ""])

    def begin(self, question_id: str, attempt: int, text: str) -> str:
        """Announce an attempt, with what there is of the text; returns the name of its writer, a new one."""
        writer = secrets.token_hex(4)
        texts = [["text", text, writer]] if text else []
        self._add(question_id, ["begin", attempt, writer], *texts)
        return writer

    def go_on(self, question_id: str, text: str, writer: str, *, renew: bool) -> bool:
        """Add a piece, and renew the time to live if that is asked for. False: Redis has lost the stream."""
        key, entry = self._prefix + question_id, _encoded(["text", text, writer])
        with translating():
            # What follows a beginning that is lost must not make a stream that never expires.
            added = self._client.xadd(key, {"e": entry}, maxlen=_LONGEST, approximate=True, nomkstream=True)
            if renew:
                self._client.expire(key, self._ttl)
        return added is not None

    def _add(self, question_id: str, *entries: list[Any]) -> None:
        key = self._prefix + question_id
        with translating(), self._client.pipeline(transaction=False) as pipe:
            for entry in entries:
                pipe.xadd(key, {"e": _encoded(entry)}, maxlen=_LONGEST, approximate=True)
            pipe.expire(key, self._ttl)
            pipe.execute()

    def read(self, question_id: str, position: str, *, block: float) -> list[AnswerEvent]:
        """Entries after ``position``; waits up to ``block`` seconds for the first, and returns none then."""
        own, leader, there = _places(position)
        found = self.read_many({question_id: own} | ({leader: there} if leader else {}), block=block)
        events = [_read_along(event, own, leader) for event in found.get(leader, ())]
        for event in found.get(question_id, ()):
            events.append(event)
            if event.kind == "follow":  # what is read there comes before what follows here
                break
        return events

    def read_many(self, positions: Mapping[str, str], *, block: float) -> dict[str, list[AnswerEvent]]:
        """New entries of many streams, by question, over one connection: of those that have some when the first comes.
        Of a question that follows another one these are its own, and not what it reads along.
        """
        wanted: Any = {self._prefix + question_id: position for question_id, position in positions.items()}
        with translating():
            found: Any = self._client.xread(wanted, block=max(1, int(block * 1000))) or {}
        streams = [(key, pages[0]) for key, pages in found.items()] if isinstance(found, dict) else found
        return {key.decode()[len(self._prefix) :]: [_event(*entry) for entry in entries] for key, entries in streams}


class StreamWriter:
    """Sends the first piece at once and joins those that follow quickly.

    Where Redis is away, or has lost the stream, the answer goes on all the same: its model is paid for. As soon as that
    can be, it is told again from its beginning; if not, its readers have it from the ledger.
    """

    def __init__(self, streams: AnswerStreams, question_id: str, attempt: int, *, renew_every: float) -> None:
        """Nothing is sent yet; ``renew_every`` is how often the time to live is, in seconds."""
        self._streams = streams
        self._question_id = question_id
        self._attempt = attempt
        self._writer = ""  # none: what readers may have heard is not the beginning of this
        self._pieces: list[str] = []
        self._told = 0
        self._hangs = False
        self._sent = 0.0
        self._renew_every = renew_every
        self._renewed = 0.0

    def write(self, text: str) -> None:
        """Take a piece; send what is held back if it is time."""
        self._pieces.append(text)
        if time.monotonic() - self._sent >= _EVERY or sum(map(len, self._pieces[self._told :])) >= _AT_MOST:
            self.flush()

    def flush(self) -> None:
        """Send what is held back, if Redis is there."""
        away = not self._writer and time.monotonic() - self._sent < _EVERY
        if self._hangs or away or (self._writer and self._told == len(self._pieces)):
            return
        begun = time.monotonic()
        try:
            if not (self._writer and self._go_on()):
                self._begin()
            self._told = len(self._pieces)
        except (Unreachable, TimedOut) as error:
            if self._writer or not self._pieces:
                _log.warning("an answer is not heard", question=self._question_id, error=error.message)
            self._writer = ""
            self._hangs = time.monotonic() - begun > _TOO_LONG
        self._sent = time.monotonic() if self._pieces else 0.0

    def _begin(self) -> None:
        self._writer = self._streams.begin(self._question_id, self._attempt, "".join(self._pieces))
        self._renewed = time.monotonic()

    def _go_on(self) -> bool:
        now = time.monotonic()
        renew = now - self._renewed >= self._renew_every
        self._renewed = now if renew else self._renewed
        held = "".join(self._pieces[self._told :])
        return self._streams.go_on(self._question_id, held, self._writer, renew=renew)


def _encoded(entry: list[Any]) -> str:
    return json.dumps(entry, ensure_ascii=False)


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
        message = f"Redis can't be reached: {in_a_line(error)}."
        raise Unreachable(message, "Is it running? See `manage.py doctor`.", detail) from error
    except redis.exceptions.RedisError as error:  # it is full, or read only, or its disk is
        raise Unreachable(f"Redis refuses: {in_a_line(error)}.", "See `manage.py doctor`.", detail) from error


def _places(position: str) -> tuple[str, str, str]:
    """The place in a question's own stream; the question that it follows, and the place in that one's."""
    own, _, rest = position.partition("@")
    leader, _, there = rest.partition("@")
    return own, leader, there


def _read_along(event: AnswerEvent, own: str, leader: str) -> AnswerEvent:
    """An entry of another question's stream; how that one ends is nothing that a reader of this one should hear."""
    place = {"position": f"{own}@{leader}@{event.position}"}
    if event.kind in ("begin", "text"):
        return event.model_copy(update=place)
    return AnswerEvent(kind="follow", value=leader, **place)


def _event(entry_id: bytes | str, fields: dict[Any, Any]) -> AnswerEvent:
    raw = next(iter(fields.values()))
    kind, value, writer = [*json.loads(raw), None, ""][:3]
    position = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    if kind == "follow":
        position = f"{position}@{value}@0"
    return AnswerEvent(kind=kind, value=value, writer=writer or "", position=position)
