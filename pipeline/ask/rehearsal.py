"""What every question does, done before the first one comes, so that it costs what the hundredth costs.

Connections are opened, statements planned, models and modules loaded. No model of a service is called: that would cost
money each time a worker starts.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import structlog

from pipeline.ask.generate import generate
from pipeline.ask.question import new_question
from pipeline.errors import CeleriacError, NotFound, wrap
from pipeline.matching import require_match
from pipeline.retrieve.enrich import enrich
from pipeline.retrieve.search import search
from pipeline.types import AskState, KnowledgeBase, Parent, Passage, pack_vector
from pipeline.wiring import Parts

_log = structlog.get_logger(__name__)
_TEXT = "Which answer is the first one?"
_AT_ONCE = 2
"""Connections to Postgres that one question uses: the branches of a search run side by side."""


def rehearse(parts: Parts) -> tuple[str, ...]:
    """Names of what could not be had, each with its reason in the log: no reason not to start, since it may come back
    before a question does.
    """
    steps: Mapping[str, Callable[[Parts], None]] = {
        "redis": _redis,
        "postgres": _postgres,
        "store": _store,
        "answers": _answers,
    }
    return tuple(name for name, step in steps.items() if not _is_had(name, step, parts))


def _is_had(name: str, step: Callable[[Parts], None], parts: Parts) -> bool:
    begun = time.perf_counter()
    try:
        step(parts)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other parts can be had
        _log.warning("not ready", part=name, error=str(wrap(error)))
        return False
    _log.debug("ready", part=name, ms=round((time.perf_counter() - begun) * 1000, 1))
    return True


def _redis(parts: Parts) -> None:
    parts.cancellations.is_cancelled(str(uuid.uuid4()))  # begins to listen for those that are
    parts.upstreams.report()


def _postgres(parts: Parts) -> None:
    nobody = str(uuid.uuid4())
    parts.connect(_AT_ONCE)
    parts.passages.live(nobody, [nobody])
    parts.passages.texts(nobody, [nobody])
    with contextlib.suppress(NotFound):
        parts.questions.find(nobody)


def _store(parts: Parts) -> None:
    """Search a knowledge base, if there is one: a store's first search may take a hundred times as long as others."""
    settings, kb = parts.settings, _any_knowledge_base(parts)
    if kb is None:
        parts.store.check(timeout=settings.connect_timeout)
        return
    vector = np.full(kb.dimensions, kb.dimensions**-0.5, dtype=np.float32)
    # What it finds is not judged: a knowledge base that has lost its chunks does not keep the others from being asked.
    state = _state(parts, kb.model_copy(update={"chunks": 0})).but(vector=pack_vector(vector))
    found = search(
        state,
        retriever=parts.retriever,
        candidates=settings.candidates,
        alpha=0.5,
        timeout=settings.search_timeout,
    )
    enrich(found, passages=parts.passages, min_score=0.0, depth=1)


def _any_knowledge_base(parts: Parts) -> KnowledgeBase | None:
    for kb in parts.knowledge_bases.list("default"):
        try:
            require_match(kb, parts.settings)
        except CeleriacError:
            continue
        if kb.chunks:
            return kb
    return None


def _answers(parts: Parts) -> None:
    """Write one without a model: that is what there is when the model is down, and the rest of it is always done."""
    kb = KnowledgeBase.model_validate(
        {
            "id": str(uuid.uuid4()),
            "tenant": "default",
            "name": "rehearsal",
            "embedding_model": parts.embedder.model,
            "dimensions": 1,
            "store": parts.settings.store_name,
            "created_at": "2000-01-01T00:00:00Z",
        }
    )
    passage = Passage(chunk_id="rehearsal", document_id="rehearsal", title="Rehearsal")
    state = _state(parts, kb).but(passages=(passage,))
    generate(state, generator=parts.extractive, texts=_Given(), sink=_Nowhere(), timeout=parts.settings.embed_timeout)


def _state(parts: Parts, kb: KnowledgeBase) -> AskState:
    return AskState(question=new_question(_TEXT, parts.settings, kb=kb.name, tenant=kb.tenant), kb=kb)


class _Given:
    """The text of the one passage."""

    def texts(self, kb_id: str, chunk_ids: Sequence[str]) -> Mapping[str, str]:
        return dict.fromkeys(chunk_ids, "The first answer is the one that comes before the others.")

    def parents(self, kb_id: str, chunk_ids: Sequence[str]) -> Mapping[str, Parent]:
        return {}


class _Nowhere:
    """Nobody reads along."""

    def open(self, question_id: str, attempt: int) -> _Nowhere:
        return self

    def write(self, text: str) -> None:
        """Nobody hears it."""

    def flush(self) -> None:
        """Nothing is held back."""
