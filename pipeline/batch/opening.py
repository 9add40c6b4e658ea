"""Opening the output of a batch.

A file is added to, one whole line at a time, so that a kill loses no result that was written. In the order of the
questions, lines go to ``answers.jsonl.part`` as they come, and from there to ``answers.jsonl`` as soon as none before
them is missing. A stream such as standard output is written alike, but nobody can go on with it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import BinaryIO

from pipeline.batch.journal import Journal, cant_write
from pipeline.batch.ordering import InOrder
from pipeline.batch.output import Files, Output
from pipeline.batch.ownership import Ownership

STDOUT = "-"
PART = ".part"


def open_output(path: str, *, in_order: bool = False, retry_failed: bool = True) -> Output:
    """Results go to this file, or to standard output for ``-``; failures that it holds are taken out of it with
    ``retry_failed``, so that their questions are asked again.

    Raises BadSettings where it can't be written or holds anything but results, Conflict while another batch writes it.
    """
    with ExitStack() as closing:
        try:
            if is_stream(path):
                files = _stream(path, in_order, closing)
            else:
                files = _file(os.path.realpath(path), in_order, retry_failed, closing)
        except OSError as error:
            raise cant_write(path, error) from None
        return Output(files, closing.pop_all())


def is_stream(path: str) -> bool:
    """Whether what is written there can't be read again: standard output, a pipe, a device."""
    return path == STDOUT or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path))


def _stream(path: str, in_order: bool, closing: ExitStack) -> Files:
    stream: BinaryIO = sys.stdout.buffer
    if path != STDOUT:
        stream = closing.enter_context(open(path, "wb"))  # noqa: SIM115 - closed with the rest
    order = journal = None
    if in_order:
        file = closing.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed with the rest
        journal = Journal(file.fileno(), "A temporary file")
        order = InOrder(journal, _writer(stream))
    return Files(str(uuid.uuid4()), journal, order, _writer(stream), lambda: None)


def _writer(stream: BinaryIO) -> Callable[[bytes], None]:
    def write(line: bytes) -> None:
        stream.write(line)
        stream.flush()

    return write


def _file(path: str, in_order: bool, retry_failed: bool, closing: ExitStack) -> Files:
    ownership, part = Ownership(path), path + PART
    closing.callback(ownership.close)
    before = next((name for name in (part, path) if os.path.exists(name)), None)
    if before is not None:
        _clean(before, drop_failed=retry_failed)
    batch_id = ownership.batch_id(anew=before is None)
    own = part if in_order else path
    if before == part:
        _clean(path, drop_failed=False)  # a copy of a part of what is in the other one; anything else is not touched
    if before not in (None, own):
        os.replace(before, own)
    journal = _opened(own, closing)
    journal.load(drop_failed=False)
    if not in_order:
        return Files(batch_id, journal, None, lambda _: None, ownership.end)
    copy = _opened(path, closing, os.O_TRUNC)
    order = InOrder(journal, copy.append)

    def tidy() -> None:
        os.unlink(part)
        ownership.end()

    return Files(batch_id, journal, order, copy.append, tidy)


def _opened(path: str, closing: ExitStack, flags: int = 0) -> Journal:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
    closing.callback(os.close, descriptor)
    closing.callback(os.fsync, descriptor)
    return Journal(descriptor, path)


def _clean(path: str, *, drop_failed: bool) -> None:
    """Make sure that the file holds whole results and nothing else; take failures out of it."""
    if not os.path.exists(path):
        return
    with ExitStack() as closing:
        journal = _opened(path, closing)
        if journal.load(drop_failed=drop_failed):
            _rewrite(path, journal.kept())


def _rewrite(path: str, lines: Iterable[bytes]) -> None:
    new = f"{path}.new"
    with open(new, "wb") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), os.stat(path).st_mode & 0o777)
    os.replace(new, path)
