"""A task for a worker under test (``--include tests.garbage``): what only its garbage collector could free."""

from __future__ import annotations

import gc
from collections import Counter

from tasks.app import app


@app.task(name="tests.garbage")  # type: ignore[untyped-decorator]
def garbage() -> dict[str, int]:
    """Collect, and count what was there to be collected, by type."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
    finally:
        gc.set_debug(0)
    found = Counter(type(thing).__name__ for thing in gc.garbage)
    gc.garbage.clear()
    return dict(found)
