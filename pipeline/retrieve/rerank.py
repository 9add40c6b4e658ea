"""Stage ``rerank``: the last word on the order."""

from __future__ import annotations

from pipeline.retrieve.reading import PassageTexts, read
from pipeline.seams import Reranker
from pipeline.types import AskState


def rerank(state: AskState, *, reranker: Reranker | None, texts: PassageTexts, timeout: float) -> AskState:
    """The best top_k passages: as fused where there is no reranker, else in its order."""
    top_k = state.question.options.top_k
    if reranker is None or state.kb is None or len(state.passages) < 2:
        return state.but(passages=state.passages[:top_k])
    full = read(state.passages, state.kb.id, texts=texts)
    ranked = reranker.rerank(state.search_text, full, timeout=timeout)
    return state.but(passages=tuple(p.model_copy(update={"text": ""}) for p in ranked[:top_k]))
