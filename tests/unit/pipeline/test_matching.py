from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.errors import ModelMismatch
from pipeline.matching import require_match, require_store
from pipeline.settings import Settings
from pipeline.types import KnowledgeBase


def kb_of(model: str) -> KnowledgeBase:
    return KnowledgeBase(
        id="k",
        tenant="t",
        name="docs",
        embedding_model=model,
        dimensions=3,
        store="pgvector",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("wordllama-256", {}),
        ("wordllama-256", {"OPENAI_API_KEY": "k"}),
        ("m1", {"OPENAI_API_KEY": "k", "embedding_model": "m1"}),
        ("m1", {"OPENAI_API_KEY": "k", "embedding_model": "m2"}),
        ("m1", {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "embedding_model": "wordllama-256"}),
    ],
)
def test_its_model_is_served_whatever_new_knowledge_bases_get(model: str, settings: dict[str, str]) -> None:
    require_match(kb_of(model), Settings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "settings", "mend"),
    [
        ("m1", {}, "OPENAI_API_KEY"),
        ("m1", {"embedding_model": "m1"}, "OPENAI_API_KEY"),
        ("wordllama-256", {"store": "weaviate"}, "CELERIAC_STORE=pgvector"),
        ("m1", {"store": "weaviate"}, "CELERIAC_STORE=pgvector"),
    ],
)
def test_what_can_not_be_had_is_refused_with_the_setting_that_mends_it(
    model: str, settings: dict[str, str], mend: str
) -> None:
    with pytest.raises(ModelMismatch, match="docs") as refusal:
        require_match(kb_of(model), Settings(**settings))  # type: ignore[arg-type]
    assert mend in refusal.value.hint


def test_the_store_alone_is_asked_for_where_no_model_is_needed() -> None:
    require_store(kb_of("m1"), Settings())
    with pytest.raises(ModelMismatch):
        require_store(kb_of("m1"), Settings(store="weaviate"))
