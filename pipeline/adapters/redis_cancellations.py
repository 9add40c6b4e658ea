"""Cancellations that all workers hear of: one channel in Redis, and the ledger for what was missed.

A process listens from the first time it is asked, with one connection and one thread (a greenlet under gevent), and
remembers what it hears: whether a question is cancelled costs neither a command nor a statement. A message that is lost
while Redis, or the way to it, is down is in Postgres: a question is cancelled there first. So whenever the subscription
is new, after it is confirmed, the ledger is read once.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
import structlog

from pipeline.adapters.redis_stream import translating
from pipeline.cancelling import Abort, LocalCancellations

_FIRST_ANSWER = 1.0
"""How long the first question of a process waits for the first look into the ledger, in seconds; later ones don't."""
_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_PING_AFTER = 15.0
"""Seconds of silence after which Redis must answer a ping: a connection may be dead without a word."""

_log = structlog.get_logger(__name__)


class RedisCancellations:
    """What :class:`LocalCancellations` knows, fed by the channel ``<namespace>:cancelled``."""

    def __init__(self, client: redis.Redis, *, namespace: str, on_record: Callable[[], Iterable[str]]) -> None:
        """``on_record`` gives the cancelled questions, by id, that workers may still be at."""
        self._client = client
        self._channel = f"{namespace}:cancelled"
        self._on_record = on_record
        self._local = LocalCancellations()
        self._lock = threading.Lock()
        self._listener: threading.Thread | None = None
        self._tried = threading.Event()
        self._closed = threading.Event()

    @contextmanager
    def watch(self, question_id: str) -> Iterator[Abort]:
        """See :class:`pipeline.seams.Cancellations`."""
        self._listen()
        with self._local.watch(question_id) as abort:
            yield abort

    def is_cancelled(self, question_id: str) -> bool:
        """See :class:`pipeline.seams.Cancellations`."""
        self._listen()
        return self._local.is_cancelled(question_id)

    def announce(self, question_id: str) -> None:
        """See :class:`pipeline.seams.Cancellations`."""
        with translating():
            self._client.publish(self._channel, question_id)

    def close(self) -> None:
        """Listen no more; the connection goes with the client's."""
        self._closed.set()

    def _listen(self) -> None:
        """Begin to listen, where nobody has; the first ones wait a moment for what is known already."""
        if self._tried.is_set():
            return
        with self._lock:
            if self._listener is None:
                self._listener = threading.Thread(target=self._listen_for_ever, name="cancellations", daemon=True)
                self._listener.start()
        self._tried.wait(_FIRST_ANSWER)
        self._tried.set()

    def _listen_for_ever(self) -> None:
        pause = _PAUSE
        while not self._closed.is_set():
            try:
                with self._client.pubsub() as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(self._channel)
                    for message in _messages(channel, self._closed):
                        self._take(message)
                        pause = _PAUSE
            except Exception as error:  # noqa: BLE001 - whatever it is, later ones must be heard
                if self._closed.is_set():
                    return
                _log.warning("cancellations are not heard", error=type(error).__name__, seconds=round(pause, 1))
            self._tried.set()
            self._closed.wait(random.uniform(pause / 2, pause))
            pause = min(_LONGEST_PAUSE, pause * 2)

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            for question_id in self._on_record():
                self._local.announce(question_id)
            self._tried.set()
        elif message["type"] == "message":
            self._local.announce(message["data"].decode())


def _messages(channel: Any, closed: threading.Event) -> Iterator[dict[str, Any]]:
    """Messages as they come; the client subscribes again by itself, and says so with one of type ``subscribe``."""
    waits_for_pong = False
    while not closed.is_set():
        message = channel.get_message(timeout=_PING_AFTER)
        if message is not None:
            waits_for_pong = False
            yield message
        elif waits_for_pong:
            raise redis.ConnectionError("no answer to a ping")
        else:
            channel.ping()
            waits_for_pong = True
