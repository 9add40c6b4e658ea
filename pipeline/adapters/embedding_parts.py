"""Many texts through a service, request by request: what is paid for is handed on, whatever becomes of the rest."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Postponed, ServerFault, TimedOut, Unreachable
from pipeline.pacing import Pace, Permit
from pipeline.seams import EmbeddedPart

Reply = tuple[NDArray[np.float32], int, Mapping[str, str]]
"""Vectors, tokens billed, and the headers."""


@dataclass(frozen=True)
class Limits:
    """Of one request, and how many of one call run side by side."""

    texts: int
    tokens: int
    requests: int


def in_parts(
    texts: Sequence[str],
    send: Callable[[list[str]], Reply],
    *,
    tokens_of: Callable[[str], int],
    pace: Pace,
    limits: Limits,
) -> Iterator[EmbeddedPart]:
    """Send ``texts`` in requests that ``pace`` admits; each one's vectors as they come, then the first error, if any.

    After a fault the other texts are still sent; after a refusal, or where the request itself is at fault, no more. An
    iterator that is closed sends no more either, and doesn't wait for what is under way.
    """
    work = _Work(texts, send, tokens_of, pace, limits)
    senders = work.senders
    pool = ThreadPoolExecutor(max(1, senders))
    try:
        for _ in range(senders):
            pool.submit(work.send_all)
        while senders:
            if (part := work.done.get()) is None:
                senders -= 1
            else:
                yield part
    finally:
        work.stop()
        pool.shutdown(wait=False, cancel_futures=True)
    if work.error is not None:
        raise work.error


class _Work:
    """What is left to be sent, shared by the threads that send it."""

    def __init__(
        self,
        texts: Sequence[str],
        send: Callable[[list[str]], Reply],
        tokens_of: Callable[[str], int],
        pace: Pace,
        limits: Limits,
    ) -> None:
        self.done: queue.Queue[EmbeddedPart | None] = queue.Queue()
        self.error: Exception | None = None
        self._texts = texts
        self._tokens = [tokens_of(text) for text in texts]
        self._send = send
        self._pace = pace
        self._limits = limits
        self._next = 0
        self._stopped = False
        self._lock = threading.Lock()
        self.senders = self._useful_senders()
        """Threads that send; each one starts with ``send_all``."""

    def send_all(self) -> None:
        """Send until nothing is left; ends with None in ``done``."""
        try:
            while self._goes_on():
                self._send_some()
        except Postponed as error:
            self._postponed(error)
        finally:
            self.done.put(None)

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped = True

    def _useful_senders(self) -> int:
        size = max(1, round(self._limits.texts * self._pace.share))
        requests = max(-(-len(self._texts) // size), -(-sum(self._tokens) // self._limits.tokens))
        return min(self._limits.requests, requests, len(self._texts))

    def _goes_on(self) -> bool:
        return not self._stopped and self._next < len(self._texts)

    def _send_some(self) -> None:
        try:
            with self._pace.permit(self._next_tokens) as permit:
                first, texts = self._taken(permit)
                if not texts:
                    permit.unused = True
                    return
                vectors, tokens, headers = self._send(texts)
                if tokens:  # some services don't say: then what was reserved counts
                    permit.used(tokens)
                permit.seen(headers)
        except Postponed:
            raise
        except Exception as error:  # noqa: BLE001 - raised again where the parts are taken
            self._failed(error)
        else:
            self.done.put(EmbeddedPart(first=first, vectors=tuple(vectors), tokens=tokens))

    def _taken(self, permit: Permit) -> tuple[int, list[str]]:
        """The next texts that the permit covers."""
        with self._lock:
            first = self._next
            self._next = self._end_of(permit)
            return first, list(self._texts[first : self._next])

    def _next_tokens(self, permit: Permit) -> int:
        """About as many as the next request will have: another sender may take these texts."""
        with self._lock:
            return sum(self._tokens[self._next : self._end_of(permit)])

    def _end_of(self, permit: Permit) -> int:
        """Where the next request ends: within all limits, but a text that exceeds one alone goes alone."""
        most, limit = permit.texts(self._limits.texts), self._limits.tokens
        limit = limit if permit.most_tokens is None else min(limit, permit.most_tokens)
        end, used = self._next, 0
        while not self._stopped and end < len(self._texts) and end - self._next < most:
            used += self._tokens[end]
            if used > limit and end > self._next:
                break
            end += 1
        return end

    def _postponed(self, error: Postponed) -> None:
        """One sender less: those that have a request under way go on with the rest, so only the last one gives up."""
        with self._lock:
            self.senders -= 1
            if not self.senders and self._goes_on():
                self.error = self.error or error

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self.error = self.error or error
            if not isinstance(error, (TimedOut, Unreachable, ServerFault)):
                self._stopped = True
