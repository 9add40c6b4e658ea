"""Which part reads a URL, and the whole of one document there."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import BadSettings, NotFound, UnreadableSource
from pipeline.ingest.origins import decode_url
from pipeline.seams import RemoteFiles
from pipeline.types import Source

OTHER = ""
"""The scheme under which :class:`Remotes` holds what reads all other schemes."""

Remotes = Mapping[str, RemoteFiles]
"""Readers by scheme: ``http``, ``https``, and ``""`` for all others."""


def remote_of(url: str, remotes: Remotes) -> RemoteFiles:
    """What reads ``url``; raises BadSettings."""
    scheme = url.partition("://")[0]
    found = remotes.get(scheme, remotes.get(OTHER))
    if found is None:
        raise BadSettings(f"Nothing here reads {scheme}:// addresses.", "Name a file or a folder.")
    return found


def read_remote(source: Source, remotes: Remotes, *, max_bytes: int, timeout: float) -> bytes:
    """The whole content of a remote source; raises UnreadableSource, or a retryable error of its service."""
    url = decode_url(source.file)
    try:
        with remote_of(url, remotes).open(url, max_bytes=max_bytes, timeout=timeout) as download:
            return b"".join(download.pieces())
    except NotFound as error:
        raise UnreadableSource(error.message, "Ingest it again once it is there.") from None
