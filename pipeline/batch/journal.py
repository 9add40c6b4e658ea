"""A file of results that is only ever added to, and where in it each result is."""

from __future__ import annotations

import os
import uuid
from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pipeline.batch.result import head_of, is_torn
from pipeline.errors import BadSettings


class Place(NamedTuple):
    """Where a line begins, and how long it is, in bytes."""

    offset: int
    length: int


class Journal:
    """Lines of results in a file that this process alone writes. Holds 28 bytes for each result found in it."""

    def __init__(self, descriptor: int, name: str) -> None:
        """Over an open file, which stays the caller's; ``name`` is for messages."""
        self._descriptor = descriptor
        self.name = name
        self._end = 0
        self._keys = np.empty(0, dtype="S16")
        self._offsets = np.empty(0, dtype=np.uint64)
        self._lengths = np.empty(0, dtype=np.uint32)
        self._met = np.empty(0, dtype=bool)

    def load(self, *, drop_failed: bool) -> bool:
        """Find the results that are there, and cut off a last one that is torn. Returns whether there are failures
        that are not to be found again, see :meth:`kept`. Raises BadSettings for a file of anything else.
        """
        keys, offsets, lengths, dropped = bytearray(), array("Q"), array("I"), False
        for number, (place, line) in enumerate(self._lines(), start=1):
            head = head_of(line) if line.endswith(b"\n") else None
            if head is None:
                self._cut(place, line, number)
                break
            self._end = place.offset + place.length
            if head.failed and drop_failed:
                dropped = True
                continue
            keys += uuid.UUID(head.key).bytes
            offsets.append(place.offset)
            lengths.append(place.length)
        found = np.frombuffer(bytes(keys), dtype="S16")
        order = np.argsort(found, kind="stable")
        self._keys, self._met = found[order], np.zeros(len(found), dtype=bool)
        self._offsets = np.array(offsets, dtype=np.uint64)[order]
        self._lengths = np.array(lengths, dtype=np.uint32)[order]
        return dropped

    def __len__(self) -> int:
        """How many results were found."""
        return len(self._keys)

    def find(self, key: str) -> Place | None:
        """Where the result of that key was found; it counts as met from now on."""
        wanted = uuid.UUID(key).bytes.rstrip(b"\0")  # as numpy gives them back
        at = int(np.searchsorted(self._keys, np.bytes_(wanted)))
        if at == len(self._keys) or self._keys[at] != wanted:
            return None
        self._met[at] = True
        return self._place(at)

    @property
    def unmet(self) -> int:
        """How many results nobody has asked for yet."""
        return int(np.count_nonzero(~self._met))

    def strangers(self) -> Iterator[Place]:
        """Results that nobody asked for: of questions that are no longer in the batch. In the order of the file."""
        for at in sorted(np.flatnonzero(~self._met), key=lambda at: int(self._offsets[at])):
            yield self._place(int(at))

    def kept(self) -> Iterator[bytes]:
        """The lines found, in the order of the file."""
        for at in np.argsort(self._offsets):
            yield self.read(self._place(int(at)))

    def append(self, line: bytes) -> Place:
        """Add a line, as a whole or not at all; raises BadSettings where it can't be written."""
        place = Place(self._end, len(line))
        try:
            written = os.pwrite(self._descriptor, line, self._end)
            while written < len(line):
                written += os.pwrite(self._descriptor, line[written:], self._end + written)
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            raise cant_write(self.name, error) from None
        self._end += len(line)
        return place

    def read(self, place: Place) -> bytes:
        """The line there."""
        return os.pread(self._descriptor, place.length, place.offset)

    def _place(self, at: int) -> Place:
        return Place(int(self._offsets[at]), int(self._lengths[at]))

    def _lines(self) -> Iterator[tuple[Place, bytes]]:
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            offset = 0
            for line in file:
                yield Place(offset, len(line)), line
                offset += len(line)

    def _cut(self, place: Place, line: bytes, number: int) -> None:
        last = place.offset + place.length == os.fstat(self._descriptor).st_size
        if not (last and is_torn(line)):
            raise BadSettings(f"{self.name}, line {number}: this is no result of a batch.", "Give another --out.")
        os.ftruncate(self._descriptor, place.offset)


def cant_write(name: str, error: OSError) -> BadSettings:
    """What to tell of a file that takes no results."""
    return BadSettings(f"{name} can't be written: {os.strerror(error.errno or 0)}.", "Give another --out.")
