"""Stage ``finalize``: the end of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import structlog

from pipeline.errors import CeleriacError, UpstreamError
from pipeline.ingest.removal import Removable, delete, remove
from pipeline.seams import IndexWriter
from pipeline.types import Run, RunStatus

_log = structlog.get_logger(__name__)

_PAGE = 200


class Documents(Removable, Protocol):
    """Documents that the run did not meet again."""

    def vanished(self, kb_id: str, run_id: str, roots: Sequence[str]) -> list[str]:
        """Ids of documents from under ``roots`` that the run did not meet."""

    def given_up(self, run_id: str, limit: int) -> list[tuple[str, int]]:
        """(document, generation) of drafts that the run failed to make live."""

    def version_chunks(self, versions: Sequence[tuple[str, int]]) -> list[str]:
        """Ids of the chunks of these generations."""

    def discard(self, versions: Sequence[tuple[str, int]]) -> None:
        """Delete these generations."""


class KnowledgeBases(Protocol):
    """The catalogue."""

    def refresh_size(self, kb_id: str) -> None:
        """Count its chunks anew."""


class Manifest(Protocol):
    """The run's ledger."""

    def count_pruned(self, run_id: str, count: int) -> None:
        """Note that so many documents more were pruned."""

    def finish(self, run_id: str, status: RunStatus, *, error: CeleriacError | None = None) -> bool:
        """End the run."""


def finalize(
    run: Run,
    *,
    manifest: Manifest,
    documents: Documents,
    knowledge_bases: KnowledgeBases,
    store: IndexWriter,
    timeout: float,
) -> int:
    """Prune if asked to, clear away what failed half-way, and end the run; returns how many were pruned here.

    The end may be sent more than once, and two of them may work side by side: each counts what it deleted itself, as
    soon as that is gone, and one of them ends the run.
    """
    if run.status != "running":
        return 0
    pruned = _prune(run, manifest, documents, store, timeout) if run.options.prune else 0
    _discard(run, documents, store, timeout)
    knowledge_bases.refresh_size(run.kb.id)
    manifest.finish(run.id, "done")
    return pruned


def _prune(run: Run, manifest: Manifest, documents: Documents, store: IndexWriter, timeout: float) -> int:
    pruned = 0
    for page in _pages(documents.vanished(run.kb.id, run.id, run.options.roots)):
        removed = remove(page, run.kb.all_indexes, documents=documents, store=store, timeout=timeout)
        manifest.count_pruned(run.id, removed)
        pruned += removed
    return pruned


def _discard(run: Run, documents: Documents, store: IndexWriter, timeout: float) -> None:
    try:
        while versions := documents.given_up(run.id, _PAGE):
            # Their last stage may have written some of them to the store.
            delete(documents.version_chunks(versions), run.kb.all_indexes, store=store, timeout=timeout)
            documents.discard(versions)
    except UpstreamError as error:
        # The store may be what they failed by. Nobody sees a draft; `fsck --repair` clears away what is left.
        _log.warning("drafts of failed documents left", run=run.id, error=str(error))


def _pages(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(ids), _PAGE):
        yield ids[first : first + _PAGE]
