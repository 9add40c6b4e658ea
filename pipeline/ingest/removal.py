"""Taking things out of a knowledge base so that nothing can be found that isn't there, whatever crashes when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.seams import IndexWriter
from pipeline.types import IndexRef


class Superseded(Protocol):
    """Generations that a newer one has replaced."""

    def superseded_chunks(self, document_ids: Sequence[str]) -> list[str]:
        """Ids of chunks older than the live generation."""

    def forget_superseded(self, document_ids: Sequence[str]) -> None:
        """Delete generations older than the live one."""


class Removable(Protocol):
    """Documents that can be hidden first and deleted later."""

    def hide(self, document_ids: Sequence[str]) -> list[str]:
        """Take them out of every answer; returns the ids of their chunks."""

    def delete(self, document_ids: Sequence[str]) -> int:
        """Delete them; returns how many of them were still there."""


def retire(
    document_ids: Sequence[str],
    indexes: Sequence[IndexRef],
    *,
    documents: Superseded,
    store: IndexWriter,
    timeout: float,
) -> None:
    """Remove what the live generations of these documents have replaced: first from the indexes, then the rows that
    say what to remove.
    """
    old = documents.superseded_chunks(document_ids)
    delete(old, indexes, store=store, timeout=timeout)
    documents.forget_superseded(document_ids)


def remove(
    document_ids: Sequence[str],
    indexes: Sequence[IndexRef],
    *,
    documents: Removable,
    store: IndexWriter,
    timeout: float,
) -> int:
    """Hide documents, take their chunks out of the indexes, then delete their rows; may be repeated after a crash.
    Returns how many rows it deleted itself.
    """
    chunks = documents.hide(document_ids)
    delete(chunks, indexes, store=store, timeout=timeout)
    return documents.delete(document_ids)


def delete(chunk_ids: Sequence[str], indexes: Sequence[IndexRef], *, store: IndexWriter, timeout: float) -> None:
    """Take chunks out of each of these indexes."""
    for index in indexes if chunk_ids else ():
        store.delete(index, chunk_ids, timeout=timeout)
