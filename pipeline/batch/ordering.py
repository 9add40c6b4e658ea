"""Results in the order of their questions, though they come in any.

What comes too early waits on disk, in the journal, and not in memory: 12 bytes are held for each question from the
first one without a result on.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from pipeline.batch.journal import Journal, Place

_MISSING = -1
# So many places of results that were passed on are held until they are dropped at once.
_DROP_AT = 4096


class InOrder:
    """Passes results on as soon as none before them is missing."""

    def __init__(self, journal: Journal, pass_on: Callable[[bytes], object]) -> None:
        """Results are in ``journal``; ``pass_on`` takes their lines."""
        self._journal = journal
        self._pass_on = pass_on
        self._offsets, self._lengths = array("q"), array("I")
        self._first = 0
        self._missing: dict[int, int] = {}

    def expect(self, number: int) -> None:
        """The question of that line comes next."""
        self._missing[number] = len(self._offsets)
        self._offsets.append(_MISSING)
        self._lengths.append(0)

    def put(self, number: int, place: Place) -> None:
        """The result of that line is in the journal."""
        at = self._missing.pop(number)
        self._offsets[at], self._lengths[at] = place
        while self._first < len(self._offsets) and self._offsets[self._first] != _MISSING:
            self._pass_on(self._journal.read(Place(self._offsets[self._first], self._lengths[self._first])))
            self._first += 1
        if self._first >= _DROP_AT:
            self._drop()

    def _drop(self) -> None:
        del self._offsets[: self._first], self._lengths[: self._first]
        self._missing = {number: at - self._first for number, at in self._missing.items()}
        self._first = 0
