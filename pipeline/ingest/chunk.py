"""Stage ``chunk``: from the texts of new generations to their chunks."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from typing import Protocol

from pipeline.errors import CeleriacError, InternalFault, ParseFailed, wrap
from pipeline.ingest.cutting import context_of, cut, parents
from pipeline.ingest.reading import within_memory
from pipeline.seams import Bound, Chunker, unbounded
from pipeline.types import BatchOutcome, Draft, DraftChunk, ParsedDocument, Run, RunItem, indexed_text


class Documents(Protocol):
    """Where drafts are read and their chunks written."""

    def drafts(self, versions: Sequence[tuple[str, int]]) -> list[Draft]:
        """The drafts of these (document, generation) pairs."""

    def save_chunks(self, kb_id: str, versions: Sequence[tuple[str, int]], chunks: Sequence[DraftChunk]) -> None:
        """Replace the chunks of these generations."""

    def outdated(self, versions: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        """Those whose document is gone, or live at a newer generation."""


def chunk(
    items: Sequence[RunItem],
    run: Run,
    *,
    documents: Documents,
    chunker: Chunker,
    parent_tokens: int,
    bound: Bound = unbounded,
) -> BatchOutcome:
    """Cut the items' drafts, each within the ``bound``; ``parent_tokens`` 0 stores no parents."""
    drafts = {draft.document_id: draft for draft in documents.drafts([item.version for item in items])}
    made: dict[int, list[DraftChunk]] = {}
    failed: dict[int, CeleriacError] = {}
    gone = [item for item in items if item.document_id not in drafts]
    # Another run has made a newer generation live, or deleted the document.
    outdated = documents.outdated([item.version for item in gone]) if gone else set()
    overtaken = [item.number for item in gone if item.version in outdated]
    lost = InternalFault("What was read of it is gone.", "`runs retry` reads it again.")
    failed |= {item.number: lost for item in gone if item.number not in overtaken}
    with bound() as each:
        for item in items:
            if item.document_id not in drafts:
                continue
            try:
                with each:
                    made[item.number] = _chunks(drafts[item.document_id], run.kb.id, chunker, parent_tokens)
            except Exception as error:  # noqa: BLE001 - whatever the chunker throws is the fate of one document
                failed[item.number] = wrap(error)
    chunks = [piece for pieces in made.values() for piece in pieces]
    documents.save_chunks(run.kb.id, [item.version for item in items if item.number in made], chunks)
    return BatchOutcome(unchanged=tuple(overtaken), failed=failed, chunks=len(chunks))


def chunk_id(kb_id: str, document_id: str, generation: int, ordinal: int) -> str:
    """The same chunk has the same id however often it is made; equal texts in two documents have two."""
    return str(uuid.uuid5(uuid.UUID(kb_id), f"{document_id}:{generation}:{ordinal}"))


def _chunks(draft: Draft, kb_id: str, chunker: Chunker, parent_tokens: int) -> list[DraftChunk]:
    document = ParsedDocument(text=draft.text, title=draft.title, blocks=draft.blocks)
    pieces = within_memory(lambda: cut(document, chunker))
    if not pieces:
        raise ParseFailed("The document holds no text.")
    spans = parents(pieces, parent_tokens) if parent_tokens else [(None, None)] * len(pieces)
    found = []
    for piece, (parent_start, parent_end) in zip(pieces, spans, strict=True):
        context = context_of(draft.title, draft.aliases, piece.section)
        found.append(
            DraftChunk(
                id=chunk_id(kb_id, draft.document_id, draft.generation, piece.ordinal),
                document_id=draft.document_id,
                generation=draft.generation,
                ordinal=piece.ordinal,
                text=piece.text,
                context=context,
                start=piece.start,
                end=piece.end,
                page=piece.page,
                section=piece.section,
                tokens=piece.tokens,
                embed_hash=hashlib.sha256(indexed_text(context, piece.text).encode()).hexdigest(),
                parent_start=parent_start,
                parent_end=parent_end,
            )
        )
    return found
