"""Can a knowledge base be served with these settings? Looks only at names: builds no part and calls nothing."""

from __future__ import annotations

from pipeline.errors import ModelMismatch
from pipeline.settings import OFFLINE_EMBEDDER, Settings
from pipeline.types import KnowledgeBase


def require_match(kb: KnowledgeBase, settings: Settings) -> None:
    """Raise ModelMismatch where the knowledge base lives in another store, or its embedding model can't be had.

    Its model need not be the one in the settings: that one is for new knowledge bases. Vectors of two models can't be
    compared, so each knowledge base is written and asked with its own.
    """
    require_store(kb, settings)
    if kb.embedding_model != OFFLINE_EMBEDDER and not settings.uses_openai:
        raise ModelMismatch(
            f"Knowledge base {kb.name!r} was embedded with {kb.embedding_model}, but no service of models is set.",
            "Set OPENAI_API_KEY, or OPENAI_BASE_URL for another service that has this model.",
        )


def require_store(kb: KnowledgeBase, settings: Settings) -> None:
    """Raise ModelMismatch where the knowledge base lives in another store than the one in use."""
    if kb.store != settings.store_name:
        raise ModelMismatch(
            f"Knowledge base {kb.name!r} lives in {kb.store}, but {settings.store_name} is in use.",
            f"Set CELERIAC_STORE={kb.store}, or ingest into another knowledge base.",
        )
