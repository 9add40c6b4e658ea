"""Turns the signals that ask a program to stop into a flag which it looks at where stopping is safe."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

_ASK_TO_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """While entered, SIGTERM, SIGINT and SIGHUP only set ``requested``; from the main thread only.

    A signal that is ignored on entry (``nohup``) stays ignored.
    """

    def __init__(self) -> None:
        """No signal is caught yet."""
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Take over the signals."""
        for number in _ASK_TO_STOP:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
