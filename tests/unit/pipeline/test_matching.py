from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.errors import ModelMismatch
from pipeline.matching import require_match
from pipeline.types import KnowledgeBase

KB = KnowledgeBase(
    id="k",
    tenant="t",
    name="docs",
    embedding_model="m1",
    dimensions=3,
    store="pgvector",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


def test_the_model_and_store_it_was_built_with_are_taken() -> None:
    require_match(KB, embedding_model="m1", store="pgvector")


@pytest.mark.parametrize(
    ("model", "store", "setting"),
    [
        ("m2", "pgvector", "CELERIAC_EMBEDDING_MODEL=m1"),
        ("m2", "weaviate", "CELERIAC_EMBEDDING_MODEL=m1"),
        ("m1", "weaviate", "CELERIAC_STORE=pgvector"),
    ],
)
def test_any_other_is_refused_with_the_setting_that_mends_it(model: str, store: str, setting: str) -> None:
    with pytest.raises(ModelMismatch, match="docs") as refusal:
        require_match(KB, embedding_model=model, store=store)
    assert setting in refusal.value.hint
