"""Documents that bring down their reader, for a worker started with ``--include tests.deadly``."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from pipeline.ingest import parse
from tests.installation import DEAFENS, HANGS, KILLS

_parse_document = parse.parse_document


def _deadly(data: bytes, *arguments: Any) -> Any:
    if KILLS.encode() in data:
        os.kill(os.getpid(), signal.SIGKILL)
    if HANGS.encode() in data:
        time.sleep(3600)
    if DEAFENS.encode() in data:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # as a loop in C does with every signal
        time.sleep(3600)
    return _parse_document(data, *arguments)


parse.parse_document = _deadly
