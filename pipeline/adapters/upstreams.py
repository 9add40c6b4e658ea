"""Settings → what all workers share about each service and model: the gate, the limits, and a report on both."""

from __future__ import annotations

import hashlib
import threading

import redis

from pipeline.adapters.redis_board import Board
from pipeline.adapters.redis_governor import RedisLimiter
from pipeline.adapters.redis_governor_report import Reported, report
from pipeline.adapters.redis_pace import RedisGateStore
from pipeline.breaker import Breaker
from pipeline.gate import FAULT_SPAN, GateStore, LocalGateStore
from pipeline.governor import Kind, Limit, Limiter, Unlimited, Upstream, UpstreamReport
from pipeline.pacing import Pace
from pipeline.settings import OFFLINE_EMBEDDER, OFFLINE_GENERATOR, Settings

MOST_KEPT = 64
"""Services and models that a process keeps in mind: questions name models, and they may be any."""


class Upstreams:
    """The services of one installation. Without Redis nothing is shared and nothing limits."""

    def __init__(self, settings: Settings, client: redis.Redis | None) -> None:
        """Reads nothing yet."""
        self._settings = settings
        self._board = None if client is None else Board(client, namespace=settings.namespace)
        self._known: dict[tuple[str, str], Upstream] = {}
        self._lock = threading.Lock()

    def get(self, kind: Kind, model: str) -> Upstream:
        """The governor of one service and model, in which every call of a question is made."""
        found = self._known.get((kind, model))
        if found is not None:
            return found
        with self._lock:
            while len(self._known) >= MOST_KEPT:
                del self._known[next(iter(self._known))]
            return self._known.setdefault((kind, model), self._made(kind, model))

    def pace(self, model: str) -> Pace:
        """How fast ingest may call the embedding service for this model, agreed with all other workers and people."""
        settings = self._settings
        store, limiter = self._shared("embedding", model)
        return Pace(
            "openai",
            store,
            most=settings.embed_concurrency,
            limiter=limiter,
            faults=settings.breaker_faults,
            seconds=settings.breaker_seconds,
        )

    def report(self) -> list[UpstreamReport]:
        """How it stands with every service that the settings name, as all workers know it; none without Redis."""
        if self._board is None:
            return []
        known = [
            Reported(kind, model, self._service(kind), self._name(kind, model), self._limit(model))
            for kind, model in self._named()
        ]
        return report(self._board.client, self._settings.namespace, known)

    def _made(self, kind: Kind, model: str) -> Upstream:
        store, limiter = self._shared(kind, model)
        name, settings = self._service(kind), self._settings
        faults, seconds = settings.breaker_faults, settings.breaker_seconds
        breaker = Breaker(name, store, faults=faults, seconds=seconds, span=FAULT_SPAN)
        return Upstream(name, breaker, limiter)

    def _shared(self, kind: Kind, model: str) -> tuple[GateStore, Limiter]:
        board, settings = self._board, self._settings
        if board is None:
            return LocalGateStore(), Unlimited()
        service, name = self._service(kind), self._name(kind, model)
        store = RedisGateStore(board.client, namespace=board.namespace, upstream=service, model=name, board=board)
        limit, share = self._limit(model), settings.interactive_share
        patience = settings.degrade_after
        return store, RedisLimiter(board, f"{service}:{name}", store.key, limit=limit, share=share, patience=patience)

    def _limit(self, model: str) -> Limit:
        return Limit(*self._settings.limits.get(model, (None, None)))

    def _named(self) -> list[tuple[Kind, str]]:
        settings = self._settings
        found: list[tuple[Kind, str]] = []
        if settings.generator_name != OFFLINE_GENERATOR:
            found.append(("chat", settings.generator_name))
        if settings.embedder_name != OFFLINE_EMBEDDER:
            found.append(("embedding", settings.embedder_name))
        if settings.rerank_url is not None:
            found.append(("reranker", settings.rerank_model or ""))
        return [*found, ("store", settings.store_name)]

    def _service(self, kind: Kind) -> str:
        match kind:
            case "chat" | "embedding":
                return "openai"
            case "reranker":
                return "reranker"
            case "store":
                return self._settings.store_name

    def _name(self, kind: Kind, model: str) -> str:
        """The model, and which key it is called with: a hash that tells keys apart and doesn't give them away."""
        settings = self._settings
        key = {
            "chat": settings.openai_api_key,
            "embedding": settings.openai_api_key,
            "reranker": settings.rerank_api_key,
        }
        secret = key.get(kind)
        if secret is None:
            return model
        return f"{model}:{hashlib.sha256(secret.get_secret_value().encode()).hexdigest()[:8]}"
