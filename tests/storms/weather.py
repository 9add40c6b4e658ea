"""The storms: what goes wrong, when it begins and ends, and what may become of questions meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.chaos.services import Services

CALM: Mapping[str, Any] = {"embedding_latency": 0.06, "first_token": 0.25, "stream_seconds": 0.9, "chunks": 40}
"""The stand-in when nothing is wrong."""
BEGINS_AT = 0.2
"""Share of the questions that are over when an outage begins."""

Server = Literal["redis", "postgres", "weaviate"]


@dataclass(frozen=True)
class Storm:
    """Faults of the stand-in or another ``pace`` of it, for all of the time or for ``seconds``, or a server that is
    gone, or ``frozen``, for ``seconds``.

    An outage of the stand-in is over, too, when a share of ``ends_at`` of the questions is. ``modes`` are those of
    which one must be seen, or nothing was tried. With ``may_fail`` there is nothing lesser to be had: it is enough that
    a question fails in time, with a clear error. Of the answers asked for, at most ``most_vain`` to a question may be
    given up.
    """

    name: str
    what: str
    faults: Sequence[Mapping[str, Any]] = ()
    pace: Mapping[str, Any] = field(default_factory=dict)
    server: Server | None = None
    frozen: Literal["redis", "postgres"] | None = None
    begins_at: float = 0.0
    seconds: float | None = None
    ends_at: float = 1.0
    modes: frozenset[str] = frozenset()
    may_fail: bool = False
    most_vain: float = 0.15

    @property
    def is_of_standin(self) -> bool:
        """Whether it is the model service that behaves otherwise."""
        return bool(self.faults or self.pace)


_ENDPOINTS = ("embeddings", "chat")
STORMS = (
    Storm(
        "429",
        "both models answer 429 with Retry-After for 30 s",
        [{"kind": "status", "status": 429, "retry_after": 2, "endpoint": endpoint} for endpoint in _ENDPOINTS],
        seconds=30,
        modes=frozenset({"keyword_only", "extractive"}),
    ),
    Storm(
        "500",
        "both models answer 500 to 30 % of the calls",
        [{"kind": "status", "status": 500, "probability": 0.3, "endpoint": endpoint} for endpoint in _ENDPOINTS],
    ),
    Storm(
        "hang",
        "both models leave 5 % of the calls without an answer, half of them in mid-stream",
        [
            {"kind": "hang", "probability": 0.05, "endpoint": "embeddings"},
            {"kind": "hang", "probability": 0.025, "endpoint": "chat"},
            {"kind": "hang", "probability": 0.025, "endpoint": "chat", "after_chunks": 10},
        ],
    ),
    Storm(
        "slow",
        "the model takes 4 s instead of 0.25 s to its first word",
        pace={"first_token": 4.0},
        begins_at=BEGINS_AT,
    ),
    Storm(
        "disconnect",
        "10 % of the answers are cut off in mid-stream",
        [{"kind": "disconnect", "probability": 0.1, "endpoint": "chat", "after_chunks": 10}],
    ),
    Storm(
        "model",
        "the model that answers is gone",
        [{"kind": "status", "status": 503, "endpoint": "chat"}],
        begins_at=BEGINS_AT,
        seconds=10,
        ends_at=0.7,
        modes=frozenset({"extractive"}),
    ),
    Storm(
        "embedder",
        "the embedding model is gone",
        [{"kind": "disconnect", "endpoint": "embeddings"}],
        begins_at=BEGINS_AT,
        seconds=10,
        ends_at=0.7,
        modes=frozenset({"keyword_only"}),
    ),
    Storm("redis", "Redis is killed, and back after 3 s", server="redis", begins_at=BEGINS_AT, seconds=3),
    Storm("postgres", "Postgres is killed, and back after 3 s", server="postgres", begins_at=BEGINS_AT, seconds=3),
    Storm("frozen-redis", "Redis is frozen for 5 s and goes on", frozen="redis", begins_at=BEGINS_AT, seconds=5),
    Storm(
        "frozen-postgres",
        "Postgres is frozen for 8 s and goes on",
        frozen="postgres",
        begins_at=BEGINS_AT,
        seconds=8,
    ),
    Storm(
        "weaviate",
        "Weaviate is killed, and started again after 5 s",
        server="weaviate",
        begins_at=BEGINS_AT,
        seconds=5,
        may_fail=True,
    ),
)


class Weather:
    """One storm over one set of services; call :meth:`act` some times a second."""

    def __init__(self, storm: Storm, services: Services) -> None:
        """Calm."""
        self._storm = storm
        self._services = services
        self._begun: float | None = None
        self._over = False
        self.lasted = 0.0
        """Seconds; a server that is started again takes some more than it was to be away."""
        services.standin.reset()
        services.standin.configure(**CALM)

    def act(self, share: float) -> None:
        """What is due, with this share of the questions over."""
        storm, now = self._storm, time.monotonic()
        if self._begun is None:
            if share >= storm.begins_at:
                self._begin()
                self._begun = now
        elif storm.seconds is not None and (now - self._begun >= storm.seconds or share >= storm.ends_at):
            self.calm()

    @property
    def came(self) -> bool:
        """Whether there was a storm at all."""
        return self._begun is not None

    def calm(self) -> None:
        """End it."""
        if self._begun is None or self._over:
            return
        self._over = True
        if self._storm.is_of_standin:
            self._services.standin.configure(**CALM)
        if self._storm.server is not None:
            revive: Callable[[], None] = getattr(self._services, f"revive_{self._storm.server}")
            revive()
        self._services.thaw()
        self.lasted = time.monotonic() - self._begun

    def _begin(self) -> None:
        if self._storm.frozen is not None:
            self._services.freeze(self._storm.frozen)
        if self._storm.is_of_standin:
            self._services.standin.configure(**{**CALM, **self._storm.pace}, faults=list(self._storm.faults))
        if self._storm.server == "redis":
            self._services.end_redis("SIGKILL")
        elif self._storm.server == "postgres":
            self._services.end_postgres()
        elif self._storm.server == "weaviate":
            self._services.end_weaviate()
