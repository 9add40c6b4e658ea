"""Copies of what can be read only once: standard input, and files of records from elsewhere.

Workers, and a run that goes on later, read the copy. It is not tied to a run, because a retry may need it long after
the run has ended: whoever makes a new copy removes those that are too old.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import BadSettings, UnreadableSource


class Spool:
    """A folder of such copies."""

    def __init__(self, folder: Path, ttl: float) -> None:
        """``ttl``: age in seconds after which a copy is removed."""
        self._folder = folder.absolute()
        self._ttl = ttl

    def keep(self, pieces: Iterable[bytes], *, max_bytes: int | None, what: str) -> Path:
        """Copy ``pieces`` to a new file and return its path. Raises UnreadableSource, naming ``what``, where they are
        more than ``max_bytes``, and BadSettings where the folder can't take them; no part of a copy stays behind.
        """
        path = self._folder / uuid.uuid4().hex
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._remove_old()
            with path.open("xb") as file:
                for piece in pieces:
                    file.write(piece)
                    _require_within(file.tell(), max_bytes, what)
        except OSError as error:
            _forget(path)
            hint = "CELERIAC_HOME must be a folder with enough space that can be written to."
            raise BadSettings(f"{what} can't be copied to {self._folder}: {error.strerror or error}.", hint) from None
        except BaseException:
            _forget(path)
            raise
        return path

    def _remove_old(self) -> None:
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another ingest removes them too
                if time.time() - path.stat().st_mtime > self._ttl:
                    path.unlink()


def _forget(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _require_within(size: int, max_bytes: int | None, what: str) -> None:
    if max_bytes is not None and size > max_bytes:
        hint = "Split it, or raise the limit (docs/settings.md)."
        raise UnreadableSource(f"{what} has more than {max_bytes:,} bytes.", hint)
