"""The bytes of a source, and the text and structure in them."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import TypeVar

from pipeline.errors import InternalFault, ParseFailed, UnreadableSource
from pipeline.ingest.origins import decode_path
from pipeline.seams import Parser
from pipeline.types import ParsedDocument, RecordFields, Source

T = TypeVar("T")

_NO_TEXT_HINTS = {"pdf": "Its pages may be scanned images: run OCR over it first."}


def read_source(source: Source, *, max_bytes: int) -> bytes:
    """The whole file, or the record's stretch of it; raises UnreadableSource.

    Never waits: what is no regular file (a pipe, a device) is refused.
    """
    try:
        with open(decode_path(source.origin), "rb", opener=_without_waiting) as file:
            size = _checked_size(file.fileno(), source, max_bytes)
            file.seek(source.offset or 0)
            data = within_memory(lambda: file.read(size))
    except OSError as error:
        hint = "Ingest it again once it is there and the workers may read it."
        raise UnreadableSource(f"{source.origin}: {error.strerror or 'cannot be read'}.", hint) from None
    if len(data) < size:
        raise UnreadableSource(f"{source.origin} is shorter than when it was found.", "Ingest it again.")
    return data


def parse_document(data: bytes, source: Source, fields: RecordFields, parsers: Mapping[str, Parser]) -> ParsedDocument:
    """Text and structure of ``data`` by the parser of its format, with a title; raises ParseFailed."""
    parser = parsers.get(source.format)
    if parser is None:
        raise InternalFault(f"There is no parser for the format '{source.format}'.")
    document = within_memory(lambda: parser.parse(data, source, fields))
    # Postgres can't hold a NUL, and would refuse all documents written with this one.
    if any("\0" in part for part in (document.text, document.title, *(block.section for block in document.blocks))):
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


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # opening a pipe would wait for a writer


def _checked_size(descriptor: int, source: Source, max_bytes: int) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableSource(f"{source.origin} is not a regular file.", "Name a file or a folder.")
    size = status.st_size if source.length is None else source.length
    if size > max_bytes:
        what = "The file" if source.length is None else "The record"
        hint = "Split it, or raise the limit (docs/settings.md)."
        raise UnreadableSource(f"{what} has {size:,} bytes; the limit is {max_bytes:,}.", hint)
    return size
