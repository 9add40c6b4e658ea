"""What bounds the documents that a process of the parse pool reads: in memory, so that one that needs more fails and
the process lives, instead of the machine running out and the kernel choosing whom it kills; and in time, each.

Not by Celery's own limits: a soft one counts the whole batch and stops whatever is at work when it ends, a hard one
fails the whole chord, and a bound on memory is looked at between tasks.
"""

from __future__ import annotations

import faulthandler
import math
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pipeline.errors import ParseFailed

_PRIVATE_MEMORY = re.compile(r"^VmData:\s+(\d+) kB$", re.MULTILINE)


def bound_memory(megabytes: int) -> int:
    """Let this process hold ``megabytes`` more private memory than it does now; returns the bound in bytes.

    By RLIMIT_DATA, which Linux applies to the heap and to private writable mappings: the sum that ``VmData`` shows.
    RLIMIT_AS would also count libraries, files mapped for reading, and the address space that malloc's arenas and
    thread stacks only reserve. Nothing is bounded, and 0 returned, on systems that don't count this.
    """
    used = _private_bytes()
    if used is None:
        return 0
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = used + megabytes * 1024 * 1024
    bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    return bound


class TimeBound:
    """What each of some documents is read and cut in: ends it with ParseFailed after ``seconds``; and the process, at
    two to three times as long, where the document doesn't even notice that, as in a loop in C. Only in the main thread
    of a process that nothing else runs in.
    """

    def __init__(self, seconds: float) -> None:
        """Nothing is bounded yet."""
        self._seconds = seconds
        self._guarded_since = -math.inf

    @contextmanager
    def documents(self) -> Iterator[AbstractContextManager[None]]:
        """Gives what each document is to be read in; the process is guarded no longer than until the end of all."""
        before = signal.signal(signal.SIGALRM, self._stop)
        try:
            yield self
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._guarded_since = -math.inf
            signal.signal(signal.SIGALRM, before)

    def __enter__(self) -> None:
        """Begin a document."""
        # A guard is a thread, which costs more than many a document: one is for all that begin in its first third.
        if time.monotonic() - self._guarded_since > self._seconds:
            faulthandler.dump_traceback_later(3 * self._seconds, exit=True)
            self._guarded_since = time.monotonic()
        # Again and again, since a parser may catch whatever it meets.
        signal.setitimer(signal.ITIMER_REAL, self._seconds, min(self._seconds, 5.0))

    def __exit__(self, *_: object) -> None:
        """End it."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _stop(self, _signal: int, _frame: object) -> None:
        hint = "Raise CELERIAC_PARSE_TIMEOUT, or split the document."
        raise ParseFailed(f"Reading it took longer than {self._seconds:g} s.", hint)


def _private_bytes() -> int | None:
    if sys.platform != "linux":
        return None
    found = _PRIVATE_MEMORY.search(Path("/proc/self/status").read_text(encoding="ascii", errors="replace"))
    return int(found[1]) * 1024 if found else None
