"""Stage ``enrich``: from chunk ids to passages in live documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.retrieve.fuse import defaults_of
from pipeline.types import AskState, Passage, ScoredChunk

# A reranker sees this many times top_k, so that it has something to choose from.
RERANK_DEPTH = 4


class LivePassages(Protocol):
    """Where places of chunks are looked up."""

    def live(self, kb_id: str, chunk_ids: Sequence[str]) -> Mapping[str, Passage]:
        """Places of those chunks that belong to a live generation."""


def enrich(state: AskState, *, passages: LivePassages, min_score: float | None, depth: int) -> AskState:
    """Keep what is live and scores at least ``min_score``, at most ``depth`` times top_k of it.

    The vector store may still hold chunks of a generation that was just replaced, or already those of one that
    isn't complete: only the join on the live generation decides what a reader sees.
    """
    if state.kb is None:
        raise ValueError("enrich comes after guard, which sets the knowledge base")
    asked = state.question.options.min_score
    model = defaults_of(state.kb.embedding_model).min_score
    threshold = asked if asked is not None else min_score if min_score is not None else model
    good = [hit for hit in state.hits if hit.score >= threshold]
    return state.but(hits=(), passages=_live(good, state.kb.id, passages, depth * state.question.options.top_k))


def _live(hits: Sequence[ScoredChunk], kb_id: str, passages: LivePassages, wanted: int) -> tuple[Passage, ...]:
    """The first ``wanted`` that are live. Nearly all are, so twice as many are looked up, and the rest if need be."""
    found: list[Passage] = []
    for some in (hits[: 2 * wanted], hits[2 * wanted :]):
        if some and len(found) < wanted:
            places = passages.live(kb_id, [hit.chunk_id for hit in some])
            found += [_placed(places[hit.chunk_id], hit) for hit in some if hit.chunk_id in places]
    return tuple(found[:wanted])


def _placed(place: Passage, hit: ScoredChunk) -> Passage:
    scores = {"score": hit.score, "vector_score": hit.vector_score, "keyword_score": hit.keyword_score}
    return place.model_copy(update=scores)
