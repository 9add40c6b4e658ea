"""What an argument of an ingest names: standard input, a URL, a pattern, a folder or a file."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from pipeline.errors import BadSettings, NotFound
from pipeline.ingest.globs import is_glob
from pipeline.ingest.origins import encode_path, encode_url

STDIN = "-"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Root(NamedTuple):
    """``name`` is an absolute path for a folder or a file, the pattern for a glob, the URL for a URL."""

    kind: Literal["stdin", "url", "glob", "folder", "file"]
    name: str


def root_of(argument: Path | str) -> Root:
    """What ``argument`` names; raises NotFound for a path that isn't there, BadSettings for what can't be used."""
    text = os.fspath(argument)
    if not text:
        # To the system it is the current folder; to whoever wrote "$UNSET" it is not.
        raise BadSettings("An empty argument names nothing.", "Write . for the current folder.")
    if text == STDIN:
        return Root("stdin", STDIN)
    if scheme := _URL.match(text):
        text = scheme[0].lower() + text[scheme.end() :]  # RFC 3986, 3.1
    if scheme and not text.startswith("file://"):
        return Root("url", _checked_url(text))
    path = os.path.abspath(_path_of(text) if text.startswith("file://") else text)
    if is_glob(path):
        return Root("glob", path)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise NotFound(f"{encode_path(path)}: {error.strerror or 'cannot be found'}.", "Check the path.") from None
    if stat.S_ISDIR(mode):
        return Root("folder", path)
    if not stat.S_ISREG(mode):
        raise BadSettings(f"{encode_path(path)} is not a regular file.", "Name a file or a folder.")
    return Root("file", path)


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port if parts.scheme in ("http", "https") else None
    except ValueError as error:
        raise BadSettings(f"{encode_url(url)} is no address: {error}.", "Check how it is written.") from None
    web = parts.scheme in ("http", "https")
    if encode_url(url) != url and web:
        raise BadSettings(f"{encode_url(url)} is no address.", "Write special characters as %XX.")
    if (web and not parts.hostname) or port == 0:
        raise BadSettings(f"{url} names no host.", "Check how it is written.")
    if parts.username or parts.password:
        # It would be kept as the document's origin, and shown.
        shown = f"{parts.scheme}://…@{parts.hostname or ''}"
        raise BadSettings(f"{shown} holds credentials.", "Set them in the environment of the workers (docs/guide.md).")
    return url.partition("#")[0] if web else url


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise BadSettings(f"{encode_url(url)} is on another host.", "Name a path of this machine: file:///path.")
    return unquote(parts.path, errors="surrogateescape")
