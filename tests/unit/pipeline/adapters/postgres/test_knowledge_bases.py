from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.adapters.postgres.engine import transaction
from pipeline.errors import BadSettings, Conflict, NotFound
from pipeline.types import KnowledgeBase
from pipeline.wiring import Parts
from tests.installation import eventually, ingest, scalars, write

BUILT_WITH = {"model": "m", "dimensions": 3, "store": "pgvector"}


def test_a_knowledge_base_is_found_by_tenant_and_name_alone(parts: Parts) -> None:
    name, tenant = uuid.uuid4().hex, uuid.uuid4().hex
    made = parts.knowledge_bases.create(tenant, name, **BUILT_WITH)  # type: ignore[arg-type]
    assert parts.knowledge_bases.find(tenant, name) == made
    assert (made.tenant, made.name, made.chunks) == (tenant, name, 0)
    assert (made.index.kb_id, made.index.model, made.index.dimensions) == (made.id, "m", 3)
    with pytest.raises(NotFound):
        parts.knowledge_bases.find("default", name)


def test_a_name_is_taken_once_per_tenant(parts: Parts) -> None:
    name = uuid.uuid4().hex
    parts.knowledge_bases.create("default", name, **BUILT_WITH)  # type: ignore[arg-type]
    with pytest.raises(Conflict, match=name):
        parts.knowledge_bases.create("default", name, **BUILT_WITH)  # type: ignore[arg-type]
    assert parts.knowledge_bases.create("other", name, **BUILT_WITH).tenant == "other"  # type: ignore[arg-type]


def test_eight_at_once_find_or_create_the_same_one(parts: Parts) -> None:
    name, tenant = uuid.uuid4().hex, uuid.uuid4().hex
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(
            lambda _: parts.knowledge_bases.find_or_create(tenant, name, **BUILT_WITH),  # type: ignore[arg-type]
            range(8),
        )
        assert len({kb.id for kb in made}) == 1


def test_an_existing_one_keeps_what_it_was_built_with(parts: Parts, kb: KnowledgeBase) -> None:
    again = parts.knowledge_bases.find_or_create(kb.tenant, kb.name, model="other", dimensions=9, store="weaviate")
    assert again == kb


def test_a_tenant_sees_its_own_by_name(parts: Parts) -> None:
    tenant = uuid.uuid4().hex
    assert parts.knowledge_bases.list(tenant) == ()
    for name in ("b", "a", "ä 🧨 \"quoted' %s {}"):
        parts.knowledge_bases.create(tenant, name.replace(" 🧨", "🧨"), **BUILT_WITH)  # type: ignore[arg-type]
    assert {kb.name for kb in parts.knowledge_bases.list(tenant)} == {"a", "b", "ä🧨 \"quoted' %s {}"}


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "nul\0", "x" * 201])
def test_a_name_that_can_not_be_read_or_typed_is_refused(name: str, parts: Parts) -> None:
    with pytest.raises(BadSettings) as caught:
        parts.knowledge_bases.create("default", name, **BUILT_WITH)  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) == 1


def test_deleting_one_takes_everything_in_it_along_and_nothing_else(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path, a="Owls hunt at night.")
    run_id = ingest(parts, kb, tmp_path)
    assert parts.knowledge_bases.counts(kb.id) == {"documents": 1, "failed": 0, "chunks": 1}
    parts.knowledge_bases.delete(kb.id)
    for table in ("documents", "chunks", "runs"):
        assert scalars(parts, f"SELECT 1 FROM {table} WHERE kb_id = :kb", kb=kb.id) == []
    assert scalars(parts, "SELECT 1 FROM run_items WHERE run_id = :run", run=run_id) == []
    assert parts.knowledge_bases.counts(kb.id) == {"documents": 0, "failed": 0, "chunks": 0}


def test_deleting_one_that_is_being_written_to_has_its_way_in_the_end(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    """Given a batch that is locked while its run is deleted, and whose writer then needs the knowledge base, Postgres
    rolls the deletion back."""
    from tests.installation import started

    write(tmp_path, a="Owls hunt at night.")
    run_id = started(parts, kb, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        with transaction(parts.engine) as writer:
            writer.execute(sa.text("SET LOCAL deadlock_timeout = '60s'"))  # so the other one looks first, and loses
            writer.execute(sa.text("SELECT FROM run_batches WHERE run_id = :run FOR UPDATE"), {"run": run_id})
            deleted = pool.submit(parts.knowledge_bases.delete, kb.id)
            eventually(lambda: bool(scalars(parts, _WAITING)))
            writer.execute(sa.text("SELECT FROM knowledge_bases WHERE id = :kb FOR KEY SHARE"), {"kb": kb.id})
            assert not deleted.done()
        deleted.result(timeout=30)
    with pytest.raises(NotFound):
        parts.knowledge_bases.find(kb.tenant, kb.name)


_WAITING = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'DELETE FROM knowledge_bases%'
"""


def test_the_size_is_known_while_the_first_run_goes_on(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    """A question may be asked as soon as one document is live."""
    from tests.installation import run_stages, started

    write(tmp_path, a="Owls hunt at night.")
    run_stages(parts, started(parts, kb, tmp_path), "parse", "chunk", "embed", "upsert")
    assert parts.knowledge_bases.find(kb.tenant, kb.name).chunks == 1


def test_where_one_is_missing_the_commands_to_type_are_about_its_tenant(parts: Parts) -> None:
    with pytest.raises(NotFound) as missing:
        parts.knowledge_bases.find("acme corp", "hand book")
    assert missing.value.hint == (
        "`manage.py kb list --tenant 'acme corp'` shows those there are; "
        "`manage.py ingest PATH --kb 'hand book' --tenant 'acme corp'` makes one."
    )
    with pytest.raises(NotFound) as missing:
        parts.knowledge_bases.find("default", "missing")
    assert "--tenant" not in str(missing.value)
