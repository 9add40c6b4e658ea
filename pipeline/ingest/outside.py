"""What lies outside the file system of workers: standard input, and files of records at URLs, copied to the spool."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import BadSettings
from pipeline.ingest.remotes import Remotes, remote_of
from pipeline.ingest.spool import Spool

_PIECE = 1 << 20


@dataclass(frozen=True)
class Outside:
    """Where the rest of the world comes in, and how much of it; seconds and bytes."""

    remotes: Remotes
    spool: Spool
    stdin: BinaryIO
    max_source_bytes: int
    max_download_bytes: int
    fetch_timeout: float
    download_timeout: float

    def require_stdin(self) -> None:
        """Raise BadSettings where nothing can come from standard input."""
        if self.stdin.isatty():
            raise BadSettings("Nothing is piped into standard input.", "Write `… | manage.py ingest -`.")

    def spooled_stdin(self, *, is_records: bool) -> Path:
        """A copy of standard input: of any size if it holds records."""
        limit = None if is_records else self.max_source_bytes
        pieces = iter(partial(self.stdin.read, _PIECE), b"")
        return self.spool.keep(pieces, max_bytes=limit, what="Standard input")

    def find(self, url: str) -> Iterator[str]:
        """URLs of the files at ``url``."""
        return remote_of(url, self.remotes).find(url, timeout=self.fetch_timeout)

    def media_type(self, url: str) -> str:
        """What the server says the file is."""
        with remote_of(url, self.remotes).open(url, max_bytes=1, timeout=self.fetch_timeout) as download:
            return download.media_type

    def spooled(self, url: str) -> Path:
        """A copy of the file at ``url``."""
        limit = self.max_download_bytes
        with remote_of(url, self.remotes).open(url, max_bytes=limit, timeout=self.download_timeout) as download:
            return self.spool.keep(download.pieces(), max_bytes=limit, what=url)


def suffix_of(url: str) -> str:
    """The suffix of the file that a URL names, in lower case, or ''."""
    path = url.partition("::")[0].partition("://")[2]
    if url.startswith(("http://", "https://")):
        # What comes before the first slash is the host.
        path = path.partition("?")[0].partition("/")[2]
    return os.path.splitext(path.rpartition("/")[2])[1].lower()
