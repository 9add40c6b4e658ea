"""Stage ``rerank``: the last word on the order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.seams import Reranker
from pipeline.types import AskState


class PassageTexts(Protocol):
    """Where texts of chunks are looked up."""

    def texts(self, kb_id: str, chunk_ids: Sequence[str]) -> Mapping[str, str]:
        """Texts by chunk id."""


def rerank(state: AskState, *, reranker: Reranker | None, texts: PassageTexts, timeout: float) -> AskState:
    """The best top_k passages: as fused where there is no reranker, else in its order."""
    top_k = state.question.options.top_k
    if reranker is None or state.kb is None or len(state.passages) < 2:
        return state.but(passages=state.passages[:top_k])
    found = texts.texts(state.kb.id, [passage.chunk_id for passage in state.passages])
    full = [p.model_copy(update={"text": found[p.chunk_id]}) for p in state.passages if p.chunk_id in found]
    ranked = reranker.rerank(state.question.text, full, timeout=timeout)
    return state.but(passages=tuple(p.model_copy(update={"text": ""}) for p in ranked[:top_k]))
