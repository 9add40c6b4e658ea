"""Stage ``embed``: the question as a vector."""

from __future__ import annotations

from pipeline.errors import ModelMismatch
from pipeline.seams import Embedder
from pipeline.types import AskState, pack_vector


def embed(state: AskState, *, embedder: Embedder, timeout: float) -> AskState:
    """Embed the question, unless it asks for keywords alone (alpha 0)."""
    if state.question.options.alpha == 0.0:
        return state
    found = embedder.embed([state.question.text], timeout=timeout)
    vector = found.vectors[0]
    if state.kb is not None and len(vector) != state.kb.dimensions:
        raise ModelMismatch(
            f"{embedder.model} gave {len(vector)} dimensions, the knowledge base has {state.kb.dimensions}.",
            "Set CELERIAC_EMBEDDING_DIMENSIONS to the size it was built with.",
        )
    return state.but(vector=pack_vector(vector), embedding_tokens=found.tokens)
