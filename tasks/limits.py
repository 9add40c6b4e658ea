"""What bounds the documents that a process of the parse pool reads: in memory, so that one that needs more fails and
the process lives, instead of the machine running out and the kernel choosing whom it kills; and in time, each.

Not by Celery's own limits: a soft one counts the whole batch and stops whatever is at work when it ends, a hard one
fails the whole chord, and a bound on memory is looked at between tasks.
"""

from __future__ import annotations

import faulthandler
import re
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def bound_time(seconds: float) -> Iterator[None]:
    """End the block with ParseFailed after ``seconds``, and this process after twice as long, where the document
    doesn't even notice that, as in a loop in C. Only in the main thread of a process that nothing else runs in.
    """

    def stop(_signal: int, _frame: object) -> None:
        hint = "Raise CELERIAC_PARSE_TIMEOUT, or split the document."
        raise ParseFailed(f"Reading it took longer than {seconds:g} s.", hint)

    before = signal.signal(signal.SIGALRM, stop)
    # Again and again, since a parser may catch whatever it meets.
    signal.setitimer(signal.ITIMER_REAL, seconds, min(seconds, 5.0))
    faulthandler.dump_traceback_later(2 * seconds, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def _private_bytes() -> int | None:
    if sys.platform != "linux":
        return None
    found = _PRIVATE_MEMORY.search(Path("/proc/self/status").read_text(encoding="ascii", errors="replace"))
    return int(found[1]) * 1024 if found else None
