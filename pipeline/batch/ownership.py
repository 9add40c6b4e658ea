"""Which batch a file of results belongs to, and who writes it now.

Beside ``answers.jsonl`` lies ``answers.jsonl.batch`` while the batch is not over. It holds the batch's id, from which
the ids of questions follow, so that those under way when a batch was killed are found again; and it is locked, so that
nobody else writes the same results.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import uuid

from pipeline.errors import Conflict

ENDING = ".batch"
_ID = re.compile(rb"[0-9a-f-]{36}")


class Ownership:
    """The right to write a file of results, until it is closed or the process ends."""

    def __init__(self, results: str) -> None:
        """Take it; raises Conflict where another process has it, and OSError where the folder takes no file."""
        self._path = results + ENDING
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise Conflict(f"Another batch is writing {results}.", "Wait for it, or give another --out.") from None

    def batch_id(self, *, anew: bool) -> str:
        """The id of the batch; a new one where there is none, or ``anew`` is said."""
        found = _ID.fullmatch(os.pread(self._descriptor, 36, 0))
        if found is not None and not anew:
            return found[0].decode()
        batch_id = str(uuid.uuid4())
        os.pwrite(self._descriptor, batch_id.encode(), 0)
        os.fsync(self._descriptor)
        return batch_id

    def end(self) -> None:
        """The batch is over: nothing of it is under way that would have to be found again."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def close(self) -> None:
        """Let others write. What was refused leaves no trace."""
        if not os.fstat(self._descriptor).st_size:
            self.end()
        os.close(self._descriptor)
