"""Documents from buckets and other file systems that fsspec knows: ``s3://…``, ``gs://…``, ``memory://…``, ``zip://…``.

Credentials and endpoints come from where the file system's own package looks for them (``AWS_…``, ``FSSPEC_S3_…``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from pipeline.errors import BadSettings, CeleriacError, NotFound, TimedOut, UnreadableSource

_PIECE = 1 << 20
_WEB = ("http", "https")


class BucketFiles:
    """Reads what fsspec can open; imports it when the first URL comes."""

    def find(self, url: str, *, timeout: float) -> Iterator[str]:
        """URLs of all objects below ``url``, folder by folder in the order of names; hidden ones are left out."""
        with _translating(url):
            system, path = _opened(url, timeout)
            kind = system.info(path)["type"]
        return _below(system, path, url) if kind == "directory" else iter([url])

    @contextlib.contextmanager
    def open(self, url: str, *, max_bytes: int, timeout: float) -> Iterator[BucketDownload]:
        """Read one object as a stream; raises UnreadableSource, and TimedOut after ``timeout`` seconds."""
        with _translating(url):
            system, path = _opened(url, timeout)
            file = system.open(path, "rb", cache_type="readahead")
        try:
            yield BucketDownload(url, file, max_bytes, time.monotonic() + timeout)
        finally:
            file.close()


class BucketDownload:
    """One object while it comes in."""

    media_type = ""

    def __init__(self, url: str, file: Any, max_bytes: int, end: float) -> None:
        """Of an open file of fsspec; ``end`` is a moment of the monotonic clock."""
        self._url = url
        self._file = file
        self._max_bytes = max_bytes
        self._end = end

    def pieces(self) -> Iterator[bytes]:
        """The bytes as they are."""
        size = 0
        while piece := self._read():
            size += len(piece)
            if size > self._max_bytes:
                hint = "Raise the limit (docs/settings.md), or leave it out."
                raise UnreadableSource(f"{self._url} has more than {self._max_bytes:,} bytes.", hint)
            yield piece

    def _read(self) -> bytes:
        if time.monotonic() > self._end:
            raise TimedOut(f"{self._url} was not read in time.")
        with _translating(self._url):
            piece: bytes = self._file.read(_PIECE)
            return piece


def _opened(url: str, timeout: float) -> tuple[Any, str]:
    """The file system of ``url``, and the path in it."""
    scheme = url.partition("://")[0]
    _refuse_web(url)
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise _missing(scheme) from None
    limits = {"s3": {"config_kwargs": {"connect_timeout": timeout, "read_timeout": timeout}}}
    try:
        system, path = url_to_fs(url, **limits.get(scheme.partition("::")[0], {}))
    except ImportError:
        raise _missing(scheme) from None
    except ValueError as error:
        cause = " ".join(str(error).split()).rstrip(".")
        raise BadSettings(f"{url} can't be used: {cause}.", "fsspec names the protocols it knows.") from None
    return system, path


def _refuse_web(url: str) -> None:
    """Of a chain (``zip://a.txt::s3://…``) no link may lead to the web: fsspec asks nobody where an address leads."""
    if any(link.partition("://")[0].lower() in _WEB for link in url.split("::")):
        raise BadSettings(f"{url} would be read over http by fsspec.", "Download it first, and name the file.")


def _missing(scheme: str) -> BadSettings:
    hint = "Install the optional part: pip install 'celeriac[buckets]'; others than s3 and gs need their own package."
    return BadSettings(f"{scheme}:// needs a package that isn't installed.", hint)


def _below(system: Any, folder: str, url: str) -> Iterator[str]:
    """Files below ``folder``, one listing at a time."""
    seen = set()
    pending = [folder]
    while pending:
        here = pending.pop()
        if here in seen:
            continue
        seen.add(here)
        with _translating(url):
            entries = sorted(system.ls(here, detail=True), key=lambda entry: str(entry["name"]))
        shown = [entry for entry in entries if _is_shown(entry["name"], here)]
        yield from (_url_of(system, entry["name"], url) for entry in shown if entry["type"] != "directory")
        pending += reversed([entry["name"] for entry in shown if entry["type"] == "directory"])


def _is_shown(name: str, folder: str) -> bool:
    """Whether an entry is no hidden one; a bucket may list a marker of the folder itself."""
    last = name.rstrip("/").rpartition("/")[2]
    return bool(last) and not last.startswith(".") and name.strip("/") != folder.strip("/") and not name.endswith("/")


def _url_of(system: Any, name: str, url: str) -> str:
    scheme, chained, rest = url.partition("::")
    if chained:
        return f"{scheme.partition('://')[0]}://{name}::{rest}"
    return str(system.unstrip_protocol(name))


@contextlib.contextmanager
def _translating(url: str) -> Iterator[None]:
    """Whatever a file system raises as an error of ours: each brings exceptions of its own."""
    try:
        yield
    except CeleriacError:
        raise
    except FileNotFoundError:
        raise NotFound(f"{url} is not there.", "Check the address.") from None
    except TimeoutError:
        raise TimedOut(f"{url} gave no answer in time.") from None
    except Exception as error:  # noqa: BLE001 - see above
        cause = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        hint = "Check the address and the credentials of its service."
        raise UnreadableSource(f"{url} can't be read: {cause}.", hint) from None
