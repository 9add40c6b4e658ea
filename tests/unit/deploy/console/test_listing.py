"""What may be pruned, over a real database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.console.listing import Listed, Sources, require_prunable, require_sure
from pipeline.errors import BadSettings, UnreadableSource
from pipeline.ingest.origins import encode_path
from pipeline.types import KnowledgeBase, RecordFields
from pipeline.wiring import Parts
from tests.installation import ingest, migrated_parts, new_kb, write


@pytest.fixture(scope="module")
def parts(postgres_url: str) -> Iterator[Parts]:
    found = migrated_parts(DATABASE_URL=postgres_url)
    yield found
    found.close()


@pytest.fixture
def kb(parts: Parts, tmp_path: Path) -> KnowledgeBase:
    """Two documents from the folder ``mount``, one from ``mounted``."""
    made = new_kb(parts)
    write(tmp_path / "mount", a="first", b="second")
    write(tmp_path / "mounted", c="third")
    ingest(parts, made, tmp_path / "mount", tmp_path / "mounted")
    return made


def test_an_empty_or_missing_folder_is_not_pruned_under_and_says_how_many_documents_would_go(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    folder = tmp_path / "mount"
    given = Sources((folder, tmp_path / "mounted"))
    assert require_prunable(parts, kb.tenant, kb.name, given, sure=False).roots == given.roots
    for name in ("a", "b"):
        (folder / f"{name}.txt").unlink()
    with pytest.raises(BadSettings, match=r"mount is empty: --prune would remove 2 documents.*--yes"):
        require_prunable(parts, kb.tenant, kb.name, given, sure=False)
    folder.rmdir()
    with pytest.raises(BadSettings, match=r"mount is missing: --prune would remove 2 documents.*--yes"):
        require_prunable(parts, kb.tenant, kb.name, given, sure=False)


def test_who_is_sure_prunes_under_what_is_gone(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    given = require_prunable(parts, kb.tenant, kb.name, Sources((tmp_path / "gone", tmp_path / "mount")), sure=True)
    assert set(given.roots) == {encode_path(tmp_path / "gone"), encode_path(tmp_path / "mount")}
    listed = Listed(prune=True, quiet=True)
    assert len(list(given.discover(parts, RecordFields(), listed))) == 2


def test_a_listing_that_found_nothing_counts_what_would_go(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"Nothing was found: --prune would remove 3 documents"):
        require_sure(parts, kb.id, [encode_path(tmp_path)], "Nothing was found")


@pytest.mark.parametrize("given", ["-", "https://example.org/a", "s3://bucket/folder", "/tmp/*.md"])
def test_only_under_paths_can_be_pruned(parts: Parts, kb: KnowledgeBase, given: str) -> None:
    with pytest.raises(BadSettings, match="--prune works under folders and files"):
        require_prunable(parts, kb.tenant, kb.name, Sources((given,)), sure=True)


def test_an_unreadable_folder_ends_a_listing_that_prunes_and_no_other(tmp_path: Path) -> None:
    listed = Listed(prune=False, quiet=True)
    listed.skip(str(tmp_path), "Permission denied")
    assert listed.counts == {"skipped": 1, "ignored": 0}
    with pytest.raises(UnreadableSource, match="without --prune"):
        Listed(prune=True, quiet=True).skip(str(tmp_path), "Permission denied")
