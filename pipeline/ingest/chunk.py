"""Stage ``chunk``: from the texts of new generations to their chunks."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pipeline.errors import CeleriacError, ParseFailed, wrap
from pipeline.ingest.cutting import cut
from pipeline.seams import Chunker
from pipeline.types import Draft, DraftChunk, ParsedDocument, Run, RunItem, indexed_text


class Documents(Protocol):
    """Where drafts are read and their chunks written."""

    def drafts(self, versions: Sequence[tuple[str, int]]) -> list[Draft]:
        """The drafts of these (document, generation) pairs."""

    def save_chunks(self, kb_id: str, versions: Sequence[tuple[str, int]], chunks: Sequence[DraftChunk]) -> None:
        """Replace the chunks of these generations."""


class Manifest(Protocol):
    """The ledger of items."""

    def advance(self, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Move items on."""

    def fail(self, run_id: str, errors: Mapping[int, CeleriacError]) -> None:
        """End items with their causes."""


def chunk(items: Sequence[RunItem], run: Run, *, manifest: Manifest, documents: Documents, chunker: Chunker) -> int:
    """Cut the items' drafts; returns how many chunks that made."""
    drafts = {draft.document_id: draft for draft in documents.drafts([_version(item) for item in items])}
    made: dict[int, list[DraftChunk]] = {}
    errors: dict[int, CeleriacError] = {}
    # A draft that is gone was overtaken: another run has made a newer generation live.
    overtaken = [item for item in items if str(item.document_id) not in drafts]
    for item in items:
        if item in overtaken:
            continue
        try:
            made[item.number] = _chunks(drafts[str(item.document_id)], run.kb.id, chunker)
        except Exception as error:  # noqa: BLE001 - whatever the chunker throws is the fate of one document
            errors[item.number] = wrap(error)
    chunks = [piece for pieces in made.values() for piece in pieces]
    documents.save_chunks(run.kb.id, [_version(item) for item in items if item.number in made], chunks)
    manifest.fail(run.id, errors)
    rows = [{"number": number, "status": "chunked", "chunks": len(pieces)} for number, pieces in made.items()]
    rows += [{"number": item.number, "status": "unchanged"} for item in overtaken]
    manifest.advance(run.id, rows)
    return len(chunks)


def chunk_id(kb_id: str, document_id: str, generation: int, ordinal: int) -> str:
    """The same chunk has the same id however often it is made; equal texts in two documents have two."""
    return str(uuid.uuid5(uuid.UUID(kb_id), f"{document_id}:{generation}:{ordinal}"))


def _chunks(draft: Draft, kb_id: str, chunker: Chunker) -> list[DraftChunk]:
    document = ParsedDocument(text=draft.text, title=draft.title, blocks=draft.blocks)
    pieces = cut(document, chunker)
    if not pieces:
        raise ParseFailed("The document holds no text.")
    found = []
    for piece in pieces:
        context = _context(draft.title, piece.section)
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
            )
        )
    return found


def _context(title: str, section: str) -> str:
    # A Markdown file's first heading is often its title too: once is enough.
    return section if section.startswith(title) else f"{title} > {section}" if section else title


def _version(item: RunItem) -> tuple[str, int]:
    return (str(item.document_id), item.generation or 0)
