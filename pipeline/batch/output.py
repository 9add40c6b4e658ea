"""Where the results of a batch go, and what is there from before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import NamedTuple, Self

from pipeline.batch.journal import Journal
from pipeline.batch.lines import Line
from pipeline.batch.ordering import InOrder
from pipeline.batch.result import Result

KeyOf = Callable[[Line], str]


class Files(NamedTuple):
    """What an output is made of: where all results are found again, if anywhere; what puts them in order, if anything;
    where their lines are passed on to, if not only to the journal; and what is done when the batch is over.
    """

    batch_id: str
    journal: Journal | None
    order: InOrder | None
    pass_on: Callable[[bytes], object]
    tidy: Callable[[], None]


class Output:
    """Takes results, and knows those from before. Made by :func:`pipeline.batch.opening.open_output`; a context manager
    that closes all files. What is in them stays, and another batch can go on with it.
    """

    def __init__(self, files: Files, closing: ExitStack) -> None:
        """``closing`` closes the files."""
        self.batch_id = files.batch_id
        self._files = files
        self._closing = closing

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Close all files."""
        self._closing.close()

    def found(self, lines: Iterable[Line], key_of: KeyOf) -> Iterator[Result]:
        """The results that these questions have from before."""
        journal = self._files.journal
        if journal is None or not len(journal):
            return
        for line in lines:
            if place := journal.find(key_of(line)):
                yield Result.from_line(journal.read(place))

    @property
    def strangers(self) -> int:
        """How many results are there of questions that the batch doesn't have, once all of its own were looked for."""
        return 0 if self._files.journal is None else self._files.journal.unmet

    def waiting(self, lines: Iterable[Line], key_of: KeyOf) -> Iterator[Line]:
        """The questions that have no result yet, to be taken one by one as they are asked."""
        journal, order = self._files.journal, self._files.order
        for line in lines:
            place = journal.find(key_of(line)) if journal else None
            if order is not None:
                order.expect(line.number)
            if place is None:
                yield line
            elif order is not None:
                order.put(line.number, place)

    def write(self, result: Result) -> None:
        """Take one more: when this returns it outlives the process."""
        line = result.to_line()
        if self._files.journal is None:
            self._files.pass_on(line)
            return
        place = self._files.journal.append(line)
        if self._files.order is not None:
            self._files.order.put(result.line, place)

    def end(self) -> None:
        """Every question has its result: what was needed for going on is removed. In order, results from before of
        questions that the batch no longer has follow at the end.
        """
        journal = self._files.journal
        if self._files.order is not None and journal is not None:
            for place in journal.strangers():
                self._files.pass_on(journal.read(place))
        self._files.tidy()
