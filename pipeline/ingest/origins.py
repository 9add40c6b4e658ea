r"""File paths as text that survives JSON, UTF-8 and Postgres, and back.

A path on POSIX is bytes: it may hold invalid UTF-8 and newlines. Those bytes, control characters and
the backslash itself are written ``\xNN``; every other path reads as it is.
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
    text = os.fsencode(path).decode("utf-8", "surrogateescape")
    return _UNSAFE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)


def decode_path(text: str) -> Path:
    """The path back from :func:`encode_path`."""
    plain = _ESCAPE.sub(lambda found: _unescaped(int(found[1], 16)), text)
    return Path(os.fsdecode(plain.encode("utf-8", "surrogateescape")))


def safe_key(text: str) -> str:
    """``text`` as a key: no control characters, and a long one cut and told apart by its hash."""
    clean = _UNSAFE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)
    data = clean.encode("utf-8", "backslashreplace")
    if len(data) <= MAX_KEY_BYTES:
        return data.decode("utf-8")
    return f"{data[: MAX_KEY_BYTES - 40].decode('utf-8', 'ignore')}…{hashlib.sha256(data).hexdigest()[:32]}"


def _unescaped(byte: int) -> str:
    return chr(byte) if byte < 0x80 else chr(0xDC00 + byte)
