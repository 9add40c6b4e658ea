"""The places of records in files of JSON lines, CSV and JSON lists, found in bounded memory.

A record longer than ``max_bytes`` is passed over in small steps and still reported, by its place only:
whoever reads it refuses it by its length.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from pipeline.fields import ID_NAMES
from pipeline.ingest.json_ids import own_ids
from pipeline.ingest.json_list import elements

_STEP = 1 << 16
_UTF8_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")


class Record(NamedTuple):
    """One record: ``place`` in its file for people, bytes for programs, and its own id or ''."""

    place: str
    offset: int
    length: int
    id: str


class RecordFile:
    """Iterates over the records of one file of the kind ``jsonl``, ``json``, ``csv`` or ``tsv``.

    Nothing comes from a file that holds no records: an empty one, one in UTF-16, or JSON that is no list whose first
    element is an object.
    """

    def __init__(self, path: Path, kind: str, id_field: str, max_bytes: int) -> None:
        """Open the file; raises OSError."""
        self._file: BinaryIO = path.open("rb")
        self._kind = kind
        self._id_names = (id_field,) if id_field else ID_NAMES
        self._max_bytes = max_bytes
        self.columns: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Close the file."""
        self._file.close()

    def __iter__(self) -> Iterator[Record]:
        """Records in their order; a CSV's ``columns`` are known when the first one comes."""
        head = self._file.read(_STEP)
        if head.startswith(_WIDE_BOMS):
            return
        self._file.seek(len(_UTF8_BOM) if head.startswith(_UTF8_BOM) else 0)
        if self._kind == "jsonl":
            yield from self._json_lines()
        elif self._kind == "json":
            if re.match(rb"(?:\xef\xbb\xbf)?\s*\[\s*\{", head):
                yield from self._json_list()
        else:
            yield from self._rows("\t" if self._kind == "tsv" else _delimiter(head))

    def _json_lines(self) -> Iterator[Record]:
        own_id = own_ids(self._id_names)
        lines = _Lines(self._file, self._max_bytes)
        while line := lines.read():
            if lines.too_long:
                yield Record(f"L{lines.number}", lines.offset, lines.length, "")
            elif not line.isspace():
                yield Record(f"L{lines.number}", lines.offset, lines.length, own_id(line))

    def _json_list(self) -> Iterator[Record]:
        own_id = own_ids(self._id_names)
        for number, (offset, length) in enumerate(elements(self._file), start=1):
            data = os.pread(self._file.fileno(), length, offset) if length <= self._max_bytes else b""
            yield Record(str(number), offset, length, own_id(data))

    def _rows(self, delimiter: str) -> Iterator[Record]:
        """Rows as the csv module sees them; the first names the columns. It pulls lines, we count bytes."""
        rows = _Rows(_Lines(self._file, self._max_bytes), delimiter, self._max_bytes)
        header = next(iter(rows), None)
        if header is None or header[1] is None:
            return
        self.columns = tuple(_native(name).strip() or f"column{n}" for n, name in enumerate(header[1], start=1))
        at = next((self.columns.index(name) for name in self._id_names if name in self.columns), None)
        for place, row in rows:
            own_id = _native(row[at]).strip() if row and at is not None and at < len(row) else ""
            yield place._replace(id=own_id)


class _Lines:
    """Reads a line at a time; of one longer than ``max_bytes`` only the first part is kept."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self.number = 0
        self.quotes = 0
        self.offset = self.end = file.tell()
        self.too_long = False

    @property
    def length(self) -> int:
        return self.end - self.offset

    def read(self) -> bytes:
        self.offset = self.end
        line = part = self._file.readline(self._max_bytes + 1)
        self.end += len(part)
        self.quotes = part.count(b'"')
        while part and not part.endswith(b"\n"):
            part = self._file.readline(_STEP)
            self.end += len(part)
            self.quotes += part.count(b'"')
        self.number += bool(line)
        self.too_long = self.length > self._max_bytes + 1
        return line


class _TooLong(Exception):
    pass


class _Rows:
    """(place, row) for each record of a CSV; the row is None where it can't be read.

    Lines are decoded as Latin-1, which maps bytes one to one and never fails; delimiters and quotes are ASCII.
    """

    def __init__(self, lines: _Lines, delimiter: str, max_bytes: int) -> None:
        csv.field_size_limit(max(csv.field_size_limit(), max_bytes))
        self._lines = lines
        self._max_bytes = max_bytes
        self._reader = csv.reader(self._texts(), delimiter=delimiter)
        self._start = lines.end
        self._quotes = 0

    def __iter__(self) -> Iterator[tuple[Record, list[str] | None]]:
        while True:
            self._start, self._quotes, line = self._lines.end, 0, self._lines.number + 1
            row = self._next()
            length = self._lines.end - self._start
            if not length:
                return
            if row != []:
                yield Record(f"L{line}", self._start, length, ""), row

    def _next(self) -> list[str] | None:
        try:
            return next(self._reader)
        except StopIteration:
            return []
        except (_TooLong, csv.Error):
            self._reader = csv.reader(self._texts(), delimiter=self._reader.dialect.delimiter)
            return None

    def _texts(self) -> Iterator[str]:
        while line := self._lines.read():
            self._quotes += self._lines.quotes
            if self._lines.end - self._start > self._max_bytes + 1:
                self._pass_over()
                raise _TooLong
            yield line.decode("latin-1")

    def _pass_over(self) -> None:
        """Go to the end of a record without keeping it: to the line that closes its last quote."""
        while self._quotes % 2 and self._lines.read():
            self._quotes += self._lines.quotes


def _delimiter(head: bytes) -> str:
    """The delimiter of a header: the one that stands in it most often."""
    header = head.lstrip(_UTF8_BOM).split(b"\n", 1)[0].decode("latin-1")
    return max(",;\t|", key=header.count)


def _native(text: str) -> str:
    """Text that was decoded as Latin-1, decoded as what it is: UTF-8, or else Windows Latin-1."""
    data = text.encode("latin-1")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")
