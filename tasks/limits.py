"""A process of the parse pool gets a bound on its memory, so that a document that needs more fails and the process
lives, instead of the machine running out and the kernel choosing whom it kills.
"""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

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


def _private_bytes() -> int | None:
    if sys.platform != "linux":
        return None
    found = _PRIVATE_MEMORY.search(Path("/proc/self/status").read_text(encoding="ascii", errors="replace"))
    return int(found[1]) * 1024 if found else None
