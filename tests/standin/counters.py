"""What the stand-in saw."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any

KEPT_REQUESTS = 1000


class Counters:
    """Counts since the start or the last reset."""

    def __init__(self) -> None:
        """All zero."""
        self.calls: Counter[str] = Counter()
        self.texts = 0
        self.texts_asked = 0
        self.embedding_tokens = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self.streams_open = 0
        self.streams_finished = 0
        self.closed_early: list[dict[str, Any]] = []
        self.connections: set[str] = set()
        self.request_ids: deque[str] = deque(maxlen=KEPT_REQUESTS)
        self.last_request: dict[str, Any] = {}

    def enter(self, request_id: str, connection: str) -> None:
        """A request came in."""
        self.request_ids.append(request_id)
        self.connections.add(connection)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def asked(self, texts: list[str]) -> None:
        """An embedding request came in with these texts, whatever becomes of it; ``texts`` counts those embedded."""
        self.texts_asked += len(texts)

    def leave(self, endpoint: str, outcome: str) -> None:
        """A request is over; ``outcome`` is its status, or ``closed`` where the client went away first."""
        self.in_flight -= 1
        self.calls[f"{endpoint} {outcome}"] += 1

    def closed(self, request_id: str, chunks: int, asked: str) -> None:
        """A client closed its stream after ``chunks`` chunks; ``asked`` is the last message, kept is its last line."""
        line = asked.rsplit("\n", 1)[-1]
        self.closed_early.append({"request_id": request_id, "at": time.time(), "chunks": chunks, "asked": line})

    def to_json(self) -> dict[str, Any]:
        """All counts as JSON."""
        return {
            "calls": dict(self.calls),
            "texts": self.texts,
            "texts_asked": self.texts_asked,
            "embedding_tokens": self.embedding_tokens,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "streams_open": self.streams_open,
            "streams_finished": self.streams_finished,
            "closed_early": self.closed_early,
            "connections": len(self.connections),
            "request_ids": list(self.request_ids),
            "last_request": self.last_request,
        }
