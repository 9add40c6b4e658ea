r"""File paths and URLs as text that survives JSON, UTF-8 and Postgres, and back.

A path on POSIX is bytes: it may hold invalid UTF-8 and newlines. Those bytes, control characters and
the backslash itself are written ``\xNN``; every other path reads as it is. So do the names of objects in buckets. A
path is absolute and starts with a slash; whatever else is an origin is a URL.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

MAX_KEY_BYTES = 1024
"""A key stands in a Postgres index, whose rows end at about 2,700 bytes."""

_UNSAFE = re.compile(r"[\\\x00-\x1f\x7f\udc80-\udcff]")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def encode_path(path: Path | str) -> str:
    """``path`` as text without control characters or surrogates."""
    return _escaped(os.fsencode(path).decode("utf-8", "surrogateescape"))


def decode_path(text: str) -> Path:
    """The path back from :func:`encode_path`."""
    return Path(os.fsdecode(decode_url(text).encode("utf-8", "surrogateescape")))


def encode_url(url: str) -> str:
    """``url`` as text without control characters or surrogates."""
    return _escaped(url)


def decode_url(text: str) -> str:
    """The URL back from :func:`encode_url`."""
    return _ESCAPE.sub(lambda found: _unescaped(int(found[1], 16)), text)


def is_remote(origin: str) -> bool:
    """Whether an origin is a URL."""
    return not origin.startswith("/")


def safe_key(text: str) -> str:
    """``text`` as a key: no control characters, and a long one cut and told apart by its hash."""
    data = _escaped(text).encode("utf-8", "backslashreplace")
    if len(data) <= MAX_KEY_BYTES:
        return data.decode("utf-8")
    return f"{data[: MAX_KEY_BYTES - 40].decode('utf-8', 'ignore')}…{hashlib.sha256(data).hexdigest()[:32]}"


def _escaped(text: str) -> str:
    return _UNSAFE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)


def _unescaped(byte: int) -> str:
    return chr(byte) if byte < 0x80 else chr(0xDC00 + byte)
