"""The elements of a JSON list in a file of any size, found in bounded memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import BinaryIO

_STEP = 1 << 18
"""Bytes kept in memory; a longer element is passed over in pieces."""
_BETWEEN = re.compile(r"[ \t\r\n,]*")
_TOKEN = re.compile(rb'["{}\[\],]|\\.?', re.DOTALL)
# Strict only in what ends where: whoever parses the element judges the rest.
_decode = json.JSONDecoder(strict=False).raw_decode


def elements(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """(offset, length) in bytes of each element of the list that starts at the file's position.

    What is no JSON comes too, so that parsing reports it: text in the place of an element, an element that is cut off,
    the bracket that ends the list together with text that follows it, and an empty element where that bracket is
    missing.
    """
    window = _Window(file)
    window.skip_opening()
    while True:
        window.skip_between()
        if window.at_end:
            yield window.place, 0
            return
        if window.at_closing:
            start, end = window.place, window.size
            if not _is_blank(file, start + 1):
                yield start, end - start
            return
        start = window.place
        closed = window.pass_element()
        yield start, window.place - start
        if not closed:
            return


class _Window:
    """A stretch of the file as text, one character a byte, and the place in it.

    Latin-1 decodes bytes one to one and never fails; what JSON is made of is ASCII.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._base = file.tell()
        self._text = ""
        self._at = 0
        self.size = file.seek(0, 2)
        self._load(self._base)

    @property
    def place(self) -> int:
        return self._base + self._at

    @property
    def at_end(self) -> bool:
        return self.place >= self.size

    @property
    def at_closing(self) -> bool:
        return self._text.startswith("]", self._at)

    def skip_opening(self) -> None:
        self._at = self._text.index("[") + 1

    def skip_between(self) -> None:
        """Go to the next element, or to the end."""
        while True:
            found = _BETWEEN.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text) or self.at_end:
                return
            self._load(self.place)

    def pass_element(self) -> bool:
        """Go behind the element that starts here; False where it is cut off."""
        if self._passed_by_decoder():
            return True
        if self._at and self._base + len(self._text) < self.size:
            self._load(self.place)
            if self._passed_by_decoder():
                return True
        end, closed = _end_of_element(self._file, self.place)
        self._go(end)
        return closed

    def _passed_by_decoder(self) -> bool:
        try:
            end = _decode(self._text, self._at)[1]
        except (ValueError, RecursionError):
            return False
        # What ends with the window may be the first half of a number; and `5x` is no number.
        follows = _BETWEEN.match(self._text, end)
        stop = follows.end() if follows else end
        if stop == len(self._text) and self._base + stop < self.size:
            return False
        if stop == end and not self._text.startswith("]", end):
            return False
        self._at = end
        return True

    def _go(self, place: int) -> None:
        if place <= self._base + len(self._text):
            self._at = place - self._base
        else:
            self._load(place)

    def _load(self, place: int) -> None:
        self._file.seek(place)
        self._base, self._at = place, 0
        self._text = self._file.read(_STEP).decode("latin-1")


def _end_of_element(file: BinaryIO, start: int) -> tuple[int, bool]:
    """Where the element ends that starts at ``start``, and whether it is whole: by quotes and brackets alone, as it is
    too long or broken for a decoder.
    """
    depth = 0
    in_string = skip = False
    base = file.seek(start)
    while data := file.read(_STEP):
        token = b""
        for found in _TOKEN.finditer(data, int(skip)):
            token = found[0]
            if in_string:
                in_string = token != b'"'
            elif token == b'"':
                in_string = True
            elif token in b"{[":
                depth += 1
            elif token in b"]," and depth == 0:
                return base + found.start(), True
            elif token in b"}]" and depth:
                depth -= 1
                if depth == 0:
                    return base + found.end(), True
        skip = token == b"\\"  # stands alone only at the end of a buffer: it escapes what comes next
        base += len(data)
    return base, depth == 0 and not in_string


def _is_blank(file: BinaryIO, place: int) -> bool:
    file.seek(place)
    while data := file.read(_STEP):
        if data.strip():
            return False
    return True
