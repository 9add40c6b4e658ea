"""Stage ``parse``: from sources to the texts of new generations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pipeline.errors import CeleriacError, wrap
from pipeline.ingest.reading import parse_document, read_source
from pipeline.seams import Parser
from pipeline.types import Draft, Reading, Run, RunItem, Source

# Part of every content hash: raise it when parsers or chunker change what they make of the same bytes.
READER_VERSION = "1"


class Registered(Protocol):
    """A document as it is before its source is read."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def content_hash(self) -> str | None: ...  # noqa: D102
    @property
    def generation(self) -> int: ...  # noqa: D102


class Documents(Protocol):
    """Where documents get their row and their drafts."""

    def register(self, kb_id: str, sources: Sequence[Source]) -> Mapping[str, Registered]:
        """A row for each source, by key."""

    def save_drafts(self, drafts: Sequence[Draft]) -> None:
        """Write new generations."""


class Manifest(Protocol):
    """The ledger of items."""

    def advance(self, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Move items on."""

    def fail(self, run_id: str, errors: Mapping[int, CeleriacError]) -> None:
        """End items with their causes."""


def parse(
    items: Sequence[RunItem],
    run: Run,
    *,
    manifest: Manifest,
    documents: Documents,
    parsers: Mapping[str, Parser],
    reading: Reading,
) -> int:
    """Read and parse the items' sources; returns how many are new or changed.

    A source whose bytes and reading are those of the live generation is ``unchanged`` and goes no further. One that
    can't be read fails alone.
    """
    registered = documents.register(run.kb.id, [item.source for item in items])
    drafts: dict[int, Draft] = {}
    errors: dict[int, CeleriacError] = {}
    unchanged: list[dict[str, Any]] = []
    for item in items:
        document = registered[item.key]
        try:
            draft = _draft(item, document, run, parsers, reading)
        except Exception as error:  # noqa: BLE001 - whatever a parser throws is the fate of one document
            errors[item.number] = wrap(error)
            continue
        if draft is None:
            unchanged.append({"number": item.number, "status": "unchanged", "document_id": document.id})
        else:
            drafts[item.number] = draft
    documents.save_drafts(list(drafts.values()))
    manifest.fail(run.id, errors)
    manifest.advance(run.id, unchanged + _parsed(drafts))
    return len(drafts)


def _draft(
    item: RunItem, document: Registered, run: Run, parsers: Mapping[str, Parser], reading: Reading
) -> Draft | None:
    is_record = item.source.offset is not None
    data = read_source(item.source, max_bytes=reading.max_record_bytes if is_record else reading.max_bytes)
    digest = _digest(data, item.source, run, reading)
    if digest == document.content_hash:
        return None
    parsed = parse_document(data, item.source, run.options.fields, parsers)
    return Draft(
        document_id=document.id,
        generation=document.generation,
        title=parsed.title,
        content_hash=digest,
        text=parsed.text,
        blocks=parsed.blocks,
    )


def _digest(data: bytes, source: Source, run: Run, reading: Reading) -> str:
    how = (READER_VERSION, source.format, source.columns, run.options.fields.encode(), reading.fingerprint)
    return hashlib.sha256(repr(how).encode() + b"\0" + data).hexdigest()


def _parsed(drafts: Mapping[int, Draft]) -> list[dict[str, Any]]:
    return [
        {"number": number, "status": "parsed", "document_id": draft.document_id, "generation": draft.generation}
        for number, draft in drafts.items()
    ]
