"""Which run is meant, on a real ledger."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from deploy.console.runs import find_id
from pipeline.errors import BadSettings, NotFound
from pipeline.types import RunOptions
from pipeline.wiring import Parts
from tests.installation import migrated_parts, new_kb


@pytest.fixture(scope="module")
def parts(postgres_url: str) -> Iterator[Parts]:
    found = migrated_parts(DATABASE_URL=postgres_url)
    yield found
    found.close()


@pytest.fixture
def tenant() -> str:
    return f"tenant-{uuid.uuid4().hex}"


def begin(parts: Parts, tenant: str, start: str = "") -> str:
    """A run whose id begins so."""
    run_id = start + str(uuid.uuid4())[len(start) :]
    parts.runs.create(run_id, new_kb(parts, tenant=tenant).id, RunOptions())
    return run_id


def test_last_is_the_newest_of_the_tenant(parts: Parts, tenant: str) -> None:
    first, second = begin(parts, tenant), begin(parts, tenant)
    begin(parts, f"{tenant}-other")
    assert find_id(parts, tenant, "last") == second != first


def test_the_beginning_is_enough_where_it_fits_one(parts: Parts, tenant: str) -> None:
    run_id, _ = begin(parts, tenant, "ab12"), begin(parts, tenant, "cd34")
    assert find_id(parts, tenant, "ab12") == find_id(parts, tenant, run_id[:13].upper()) == run_id


def test_a_whole_id_needs_no_tenant(parts: Parts, tenant: str) -> None:
    run_id = begin(parts, tenant)
    assert find_id(parts, "default", run_id) == run_id


def test_the_beginning_of_two_runs_names_both(parts: Parts, tenant: str) -> None:
    both = {begin(parts, tenant, "ab12"), begin(parts, tenant, "ab12")}
    with pytest.raises(BadSettings) as caught:
        find_id(parts, tenant, "ab12")
    assert all(run_id in str(caught.value) for run_id in both)


@pytest.mark.parametrize("text", ["", "abc", "xyzw", "no such run", "'; --", "\x1b[31m", "ab%%", "a" * 37, "newest"])
def test_what_is_no_id_is_refused(parts: Parts, tenant: str, text: str) -> None:
    with pytest.raises(NotFound, match="is no id of a run"):
        find_id(parts, tenant, text)


def test_what_belongs_to_another_tenant_is_not_found_by_its_beginning(parts: Parts, tenant: str) -> None:
    begin(parts, f"{tenant}-other", "ab12")
    with pytest.raises(NotFound, match=rf"begins with.*`manage\.py runs list --tenant {tenant}`"):
        find_id(parts, tenant, "ab12")
    with pytest.raises(NotFound, match="has no run"):
        find_id(parts, tenant, "last")
    with pytest.raises(NotFound, match="There is no run"):
        find_id(parts, tenant, str(uuid.uuid4()))
