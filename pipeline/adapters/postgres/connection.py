"""Connections to Postgres that are given up when no answer comes.

``statement_timeout`` is the server's: one that is frozen keeps no time, and its kernel goes on acknowledging what is
sent, so that the network looks well, too.
"""

from __future__ import annotations

import math
from typing import TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen

from pipeline.time_left import time_left

T = TypeVar("T")

GRACE = 1.0
"""Seconds that a statement gets beyond what the server was told: it is to give up first, since that costs no
connection."""
# Who is nearly out of time gets so many seconds all the same: a server that is well needs a hundredth of them.
_LEAST = 1.0


class BoundedConnection(psycopg.Connection):
    """A connection on which a statement ends in time, or the connection does."""

    usual: float = math.inf
    """Seconds after which the server gives a statement up, where nobody told it otherwise."""
    limit: float = math.inf
    """The same for what is done on it now. Whoever tells the server otherwise changes it; it is the usual one again
    when the connection is given back."""

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Everything that is asked of the server passes here, in gevent's workers as in threads."""
        seconds = min(self.limit + GRACE, at_most(math.inf)) if timeout is None else timeout
        try:
            return super().wait(gen, interval, None if seconds == math.inf else seconds)
        except errors._WaitTimeout:
            self.close()
            raise psycopg.OperationalError(f"no answer within {seconds:.3g} s") from None


def at_most(seconds: float) -> float:
    """So many seconds, or what is left of the time of whoever waits."""
    return min(seconds, max(_LEAST, time_left()))
