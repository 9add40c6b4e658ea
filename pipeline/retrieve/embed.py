"""Stage ``embed``: the question as a vector."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import ModelMismatch
from pipeline.prices import Price, cost
from pipeline.seams import Embedder
from pipeline.types import AskState, Usage, pack_vector


def embed(
    state: AskState, *, embedder: Embedder, timeout: float, prices: Mapping[str, Price] | None = None
) -> AskState:
    """Embed the question, unless it asks for keywords alone (alpha 0). ``prices`` override those of the list; a model
    without one counts as free, so that the cost of the answer, which is most of it, stays known.
    """
    if state.question.options.alpha == 0.0:
        return state
    found = embedder.embed([state.search_text], timeout=timeout)
    vector = found.vectors[0]
    if state.kb is not None and len(vector) != state.kb.dimensions:
        raise ModelMismatch(
            f"{embedder.model} gave {len(vector)} dimensions, the knowledge base has {state.kb.dimensions}.",
            "Set CELERIAC_EMBEDDING_DIMENSIONS to the size it was built with.",
        )
    price = cost(embedder.model, found.tokens, 0, prices or {}) or 0.0
    spent = state.spent.plus(Usage(embedding_tokens=found.tokens, cost_usd=price))
    return state.but(vector=pack_vector(vector), spent=spent)
