"""Real parts, offline, for the stages and the ledgers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.types import KnowledgeBase
from pipeline.wiring import Parts
from tests.installation import migrated_parts, new_kb


@pytest.fixture(scope="session")
def parts(postgres_url: str) -> Iterator[Parts]:
    """Parts over a migrated database, shared: each test makes a knowledge base of its own."""
    found = migrated_parts(DATABASE_URL=postgres_url, chunk_tokens=40, cache=False)
    yield found
    found.close()


@pytest.fixture
def kb(parts: Parts) -> KnowledgeBase:
    """A new, empty knowledge base."""
    return new_kb(parts)
