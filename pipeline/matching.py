"""Does a knowledge base go with the parts in use?"""

from __future__ import annotations

from pipeline.errors import ModelMismatch
from pipeline.types import KnowledgeBase


def require_match(kb: KnowledgeBase, *, embedding_model: str, store: str) -> None:
    """Raise ModelMismatch where it was built with another embedding model or store: vectors of two models can't be
    compared, and would give nonsense rather than an error.
    """
    if kb.embedding_model != embedding_model:
        raise ModelMismatch(
            f"Knowledge base {kb.name!r} was embedded with {kb.embedding_model}, but {embedding_model} is in use.",
            f"Set CELERIAC_EMBEDDING_MODEL={kb.embedding_model}, or ingest into another knowledge base.",
        )
    if kb.store != store:
        raise ModelMismatch(
            f"Knowledge base {kb.name!r} lives in {kb.store}, but {store} is in use.",
            f"Set CELERIAC_STORE={kb.store}, or ingest into another knowledge base.",
        )
