"""Stage ``enrich``: from chunk ids to passages in live documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.retrieve.fuse import defaults_of
from pipeline.types import AskState, Passage

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
    places = passages.live(state.kb.id, [hit.chunk_id for hit in good]) if good else {}
    found = tuple(
        places[hit.chunk_id].model_copy(
            update={"score": hit.score, "vector_score": hit.vector_score, "keyword_score": hit.keyword_score}
        )
        for hit in good
        if hit.chunk_id in places
    )
    return state.but(hits=(), passages=found[: depth * state.question.options.top_k])
