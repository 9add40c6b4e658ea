"""The bytes of a source, and the text and structure in them."""

from __future__ import annotations

import json
import os
import resource
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import TypeVar

from pipeline.errors import InternalFault, ParseFailed, UnreadableSource
from pipeline.ingest.origins import decode_path, is_remote
from pipeline.ingest.remotes import Remotes, read_remote
from pipeline.seams import Parser
from pipeline.types import ParsedDocument, RecordFields, Source

T = TypeVar("T")

_NO_REMOTES: Remotes = {}
_LOOKS = 5
_TICK = 0.02
"""Seconds; file systems keep the time of a change in ticks of at most 10 ms."""
_NO_TEXT_HINTS = {"pdf": "Its pages may be scanned images: run OCR over it first."}


def read_source(source: Source, *, max_bytes: int, remotes: Remotes = _NO_REMOTES, timeout: float = 30.0) -> bytes:
    """The whole file, or the record's stretch of it, as it was at one moment; raises UnreadableSource, and retryable
    errors of services.

    Waits for no writer: what is no regular file (a pipe, a device) is refused, and so is one that is written all the
    time. A URL may take ``timeout`` seconds.
    """
    if is_remote(source.file):
        return read_remote(source, remotes, max_bytes=max_bytes, timeout=timeout)
    for _ in range(_LOOKS):
        try:
            data = _look(source, max_bytes)
        except OSError as error:
            hint = "Ingest it again once it is there and the workers may read it."
            raise UnreadableSource(f"{source.file}: {error.strerror or 'cannot be read'}.", hint) from None
        if data is not None:
            return data
        time.sleep(_TICK)
    raise UnreadableSource(f"{source.file} changed while it was read.", "Ingest it again once it is written.")


def parse_document(data: bytes, source: Source, fields: RecordFields, parsers: Mapping[str, Parser]) -> ParsedDocument:
    """Text and structure of ``data`` by the parser of its format, with a title; raises ParseFailed."""
    parser = parsers.get(source.format)
    if parser is None:
        raise InternalFault(f"There is no parser for the format '{source.format}'.")
    document = within_memory(lambda: parser.parse(data, source, fields))
    # Postgres can't hold a NUL, and would refuse all documents written with this one.
    if any("\0" in part for part in _strings(document)):
        raise InternalFault(f"The parser of the format '{source.format}' let a NUL character pass.")
    if not document.text.strip():
        raise ParseFailed("It holds no text.", _NO_TEXT_HINTS.get(source.format, "Remove it, or put text into it."))
    if document.title or source.offset is not None:
        return document  # a record without a title has none: its id would only be noise in the index
    return document.model_copy(update={"title": PurePosixPath(source.key).name or source.key})


def within_memory(work: Callable[[], T]) -> T:
    """What ``work`` gives; raises ParseFailed where the process may not hold as much memory as it takes."""
    try:
        return work()
    except MemoryError:
        pass  # below, where it is gone with all that its traceback holds: the next document needs that memory
    bound, _ = resource.getrlimit(resource.RLIMIT_DATA)
    limit = "there is" if bound == resource.RLIM_INFINITY else f"the {bound // 2**20:,} MB that its process may hold"
    raise ParseFailed(f"It needs more memory than {limit}.", "Split it, or raise CELERIAC_PARSE_MEMORY_MB.")


def _strings(document: ParsedDocument) -> Iterator[str]:
    yield from (document.text, document.title, *document.aliases)
    yield from (block.section for block in document.blocks)
    if document.metadata:
        yield json.dumps(document.metadata, ensure_ascii=False).replace("\\u0000", "\0")


def _look(source: Source, max_bytes: int) -> bytes | None:
    """The data, or None where somebody wrote meanwhile, or may have."""
    with open(decode_path(source.file), "rb", opener=_without_waiting) as file:
        before = os.fstat(file.fileno())
        size = _checked_size(before, source, max_bytes)
        file.seek(source.offset or 0)
        data = within_memory(lambda: file.read(size))
        after = os.fstat(file.fileno())
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        return None
    if len(data) < size:
        raise UnreadableSource(f"{source.file} is shorter than when it was found.", "Ingest it again.")
    # Within one tick of the file system's clock a second write leaves the time of the first.
    ticked = source.offset is not None or time.time() - after.st_mtime > _TICK or time.time() < after.st_mtime
    return data if ticked else None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # opening a pipe would wait for a writer


def _checked_size(status: os.stat_result, source: Source, max_bytes: int) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableSource(f"{source.file} is not a regular file.", "Name a file or a folder.")
    size = status.st_size if source.length is None else source.length
    if size > max_bytes:
        what = "The file" if source.length is None else "The record"
        hint = "Split it, or raise the limit (docs/settings.md)."
        raise UnreadableSource(f"{what} has {size:,} bytes; the limit is {max_bytes:,}.", hint)
    return size
