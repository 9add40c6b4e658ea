"""Ctrl-C: while a command gets ready, and when it is over, it ends the process at once and without a word.

An exception in the middle of an import would be a traceback, or leave a module that is only half there. A command that
has something to end in good order heeds Ctrl-C from then on.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

STOPPED = 130


def leave_at_once() -> None:
    """From now on Ctrl-C ends the process, unless it is ignored, as for what a script runs in the background."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def heed() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(STOPPED)
