"""Stage: find the documents that files and folders hold.

A file is one document, except JSON lines, CSV and a JSON list of objects: there each record is one.
Everything streams; what can't be read here becomes a source all the same, so that parsing reports it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.errors import BadSettings, NotFound
from pipeline.ingest.origins import encode_path, safe_key
from pipeline.ingest.records import Record, RecordFile
from pipeline.types import RecordFields, Source

FORMATS = {
    ".txt": "text",
    ".text": "text",
    ".log": "text",
    ".rst": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
    ".docx": "docx",
    ".pptx": "pptx",
    ".xlsx": "xlsx",
    ".eml": "eml",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
}
IGNORED_FOLDERS = frozenset({"__pycache__", "node_modules"})
_RECORD_FORMATS = {"jsonl": "json", "json": "json", "csv": "csv", "tsv": "csv"}
"""Kinds of files that hold records, and the format of each record."""
_SNIFFED_BYTES = 8192

OnSkip = Callable[[Path, str], None]


def discover(
    paths: Sequence[Path | str],
    *,
    fields: RecordFields,
    max_record_bytes: int,
    on_skip: OnSkip = lambda _path, _reason: None,
) -> Iterator[Source]:
    """Sources of all documents under ``paths``, each real file once, folders in the order of names.

    All ``paths`` are checked before anything is yielded: NotFound for one that isn't there, BadSettings
    for one that is no readable kind of file. Inside folders hidden files are passed over, and files of
    unknown kind reported to ``on_skip(path, reason)``. A record's key is its own id, so that it is
    updated from whatever file it comes next; without one it is the file's path and line.
    """
    roots = [Path(os.path.abspath(path)) for path in paths]
    formats = {root: _format_of_named(root) for root in roots}

    def sources() -> Iterator[Source]:
        for path in _files(roots, on_skip):
            format_ = formats.get(path) or FORMATS.get(path.suffix.lower())
            if format_ is None:
                on_skip(path, f"'{path.suffix or path.name}' is not a known kind of document")
            else:
                yield from _sources_of(path, format_, fields, max_record_bytes)

    return sources()


def _format_of_named(path: Path) -> str | None:
    """The format of a path that the caller named, None for a folder; raises where it can't be used."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise NotFound(f"{encode_path(path)}: {error.strerror or 'cannot be found'}.", "Check the path.") from None
    if stat.S_ISDIR(mode):
        return None
    if not stat.S_ISREG(mode):
        raise BadSettings(f"{encode_path(path)} is not a regular file.", "Name a file or a folder.")
    known = FORMATS.get(path.suffix.lower())
    if known is None and not _looks_like_text(path):
        hint = f"Known are {' '.join(FORMATS)}, and other files of plain text."
        raise BadSettings(f"{encode_path(path)} is not a known kind of document.", hint)
    return known or "text"


def _looks_like_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFFED_BYTES)
    except OSError:
        return True  # parsing tells why it can't be read
    if b"\0" in head:
        return head.startswith((b"\xff\xfe", b"\xfe\xff"))
    controls = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head)
    return controls * 20 <= len(head)


def _files(roots: Sequence[Path], on_skip: OnSkip) -> Iterator[Path]:
    """Regular files under ``roots``; a file or folder reached by two names is visited once."""
    seen: set[tuple[int, int]] = set()
    pending = list(reversed(roots))
    while pending:
        path = pending.pop()
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            if stat.S_ISDIR(status.st_mode):
                pending += reversed(_children(path))
            elif stat.S_ISREG(status.st_mode):
                yield path
            else:
                on_skip(path, "not a regular file")
        except OSError as error:
            on_skip(path, error.strerror or "cannot be read")


def _children(folder: Path) -> list[Path]:
    names = sorted(os.listdir(folder))
    return [folder / name for name in names if not name.startswith(".") and name not in IGNORED_FOLDERS]


def _sources_of(path: Path, format_: str, fields: RecordFields, max_record_bytes: int) -> Iterator[Source]:
    origin = encode_path(path)
    whole = Source(key=safe_key(origin), origin=origin, format=_RECORD_FORMATS.get(format_, format_))
    if format_ not in _RECORD_FORMATS:
        yield whole
        return
    found = False
    try:
        with RecordFile(path, format_, fields.id, max_record_bytes) as file:
            for record in file:
                found = True
                yield _record_source(whole, record, file.columns)
    except OSError:
        found = False
    if not found:
        yield whole  # parsing tells why nothing can be read from it


def _record_source(whole: Source, record: Record, columns: tuple[str, ...]) -> Source:
    return Source(
        key=safe_key(record.id or f"{whole.origin}#{record.place}"),
        origin=whole.origin,
        format=whole.format,
        offset=record.offset,
        length=record.length,
        columns=columns,
    )
