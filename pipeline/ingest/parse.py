"""Stage ``parse``: from sources to the texts of new generations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.errors import CeleriacError, wrap
from pipeline.ingest.reading import parse_document, read_source
from pipeline.ingest.remotes import Remotes
from pipeline.seams import Bound, Parser, unbounded
from pipeline.types import BatchOutcome, Draft, ParsedDocument, Reading, Run, RunItem, Source

# Part of every content hash: raise it when parsers or chunker change what they make of the same bytes.
READER_VERSION = "2"


class Known(Protocol):
    """A document as it is before its source is read."""

    @property
    def content_hash(self) -> str | None: ...  # noqa: D102
    @property
    def origin(self) -> str: ...  # noqa: D102
    @property
    def failed(self) -> bool: ...  # noqa: D102


class Documents(Protocol):
    """Where documents get their row and their drafts."""

    def known(self, kb_id: str, keys: Sequence[str]) -> Mapping[str, Known]:
        """Those that are there, by key."""

    def register(self, kb_id: str, sources: Sequence[Source]) -> Mapping[str, tuple[str, int]]:
        """A row for each source, by key: its id, and a generation to write."""

    def confirm(self, kb_id: str, sources: Sequence[Source]) -> None:
        """These are as they were: only where they came from is new, and a failure since is over."""

    def save_drafts(self, drafts: Sequence[Draft]) -> None:
        """Write new generations."""


def parse(
    items: Sequence[RunItem],
    run: Run,
    *,
    documents: Documents,
    parsers: Mapping[str, Parser],
    remotes: Remotes,
    reading: Reading,
    bound: Bound = unbounded,
) -> BatchOutcome:
    """Read and parse the items' sources, each within the ``bound``.

    A source whose bytes and reading are those of the live generation is ``unchanged`` and goes no further. One that
    can't be read fails alone.
    """
    known = documents.known(run.kb.id, [item.key for item in items])
    parsed: list[tuple[RunItem, str, ParsedDocument]] = []
    unchanged: list[RunItem] = []
    failed: dict[int, CeleriacError] = {}
    with bound() as each:
        for item in items:
            before = known.get(item.key)
            try:
                with each:
                    data, digest = _read(item, run, remotes, reading)
                    if before is not None and digest == before.content_hash:
                        unchanged.append(item)
                    else:
                        parsed.append((item, digest, parse_document(data, item.source, run.options.fields, parsers)))
            except Exception as error:  # noqa: BLE001 - whatever a parser throws is the fate of one document
                failed[item.number] = wrap(error)
    _confirm(unchanged, known, run, documents)
    # Failed ones get a row too, to be listed with their cause.
    as_before = {item.number for item in unchanged}
    rows = documents.register(run.kb.id, [item.source for item in items if item.number not in as_before])
    documents.save_drafts([_draft(rows[item.key], digest, document) for item, digest, document in parsed])
    return BatchOutcome(
        versions={item.number: rows[item.key] for item, _, _ in parsed},
        unchanged=tuple(item.number for item in unchanged),
        failed=failed,
    )


def _read(item: RunItem, run: Run, remotes: Remotes, reading: Reading) -> tuple[bytes, str]:
    max_bytes = reading.max_bytes if item.source.offset is None else reading.max_record_bytes
    data = read_source(item.source, max_bytes=max_bytes, remotes=remotes, timeout=reading.fetch_timeout)
    return data, _digest(data, item.source, run, reading)


def _digest(data: bytes, source: Source, run: Run, reading: Reading) -> str:
    how = (READER_VERSION, source.format, source.columns, run.options.fields.encode(), reading.fingerprint)
    digest = hashlib.sha256(repr(how).encode() + b"\0")
    digest.update(data)
    return digest.hexdigest()


def _confirm(items: Sequence[RunItem], known: Mapping[str, Known], run: Run, documents: Documents) -> None:
    changed = [item.source for item in items if known[item.key].failed or known[item.key].origin != item.source.origin]
    if changed:
        documents.confirm(run.kb.id, changed)


def _draft(version: tuple[str, int], digest: str, parsed: ParsedDocument) -> Draft:
    document_id, generation = version
    return Draft(
        document_id=document_id,
        generation=generation,
        title=parsed.title,
        content_hash=digest,
        text=parsed.text,
        blocks=parsed.blocks,
        aliases=parsed.aliases,
        metadata=parsed.metadata,
    )
