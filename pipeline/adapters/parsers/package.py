"""Office files are zip archives of XML: what of one is unpacked, and how much at most.

The libraries that read them unpack whatever an archive holds, whatever it says of itself. So they never see the
archive, only a copy: stored, without pictures, and with no more in it than was declared and allowed.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pipeline.errors import ParseFailed

MAX_UNPACKED_BYTES = 300_000_000
"""XML becomes several times its size as a tree, and a worker has no more memory than that."""
MAX_RATIO = 200
"""Of unpacked to packed. Sheets of repeated rows reach 100 to 1; deflate can't go beyond 1032 to 1."""
MIN_SUSPECT_BYTES = 20_000_000
"""Below it no ratio does harm."""
MAX_MEMBERS = 10_000
"""A presentation of 500 slides has some 3,000."""

_OLE_MAGIC = b"\xd0\xcf\x11\xe0"
_ENTRY_MAGIC = b"PK\x01\x02"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1
# Pictures, films, fonts, and other archives: none holds text that is read here.
_NEVER_READ = re.compile(r"(?:^|/)(?:media|embeddings|fonts|activeX|ctrlProps)/|\.(?:bin|jpe?g|png|gif|emf|wmf|odttf)$")
_NO_MEMORY = 2  # lxml's code for it: lxml.etree.ErrorTypes.ERR_NO_MEMORY
# What the layers below raise for a broken file. Neither MemoryError nor the time limit of a worker is among it.
_FAULTS: tuple[type[Exception], ...] = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, NameError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def unpacked(data: bytes, kind: str, old_kind: str) -> io.BytesIO:
    """A copy of the office file ``data`` that is safe to open; raises ParseFailed for what is no such archive,
    or would unpack to too much. ``kind`` and ``old_kind`` name the format and its binary predecessor.
    """
    if data.startswith(_OLE_MAGIC):
        hint = f"Save it as {kind} and without a password."
        raise ParseFailed(f"It is not a {kind} file, but the older {old_kind} format or encrypted.", hint)
    # Counted before zipfile makes an object of each: the archive's own word for it may be wrong.
    if (count := data.count(_ENTRY_MAGIC)) > MAX_MEMBERS:
        cause = f"The {kind} is an archive of {count:,} parts; the limit is {MAX_MEMBERS:,}."
        raise ParseFailed(cause, "Split it.")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {entry.filename: entry for entry in archive.infolist()}
            _check(members, kind)
            return _copy(archive, members, kind)
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, struct.error):
        hint = f"Fetch it again, or save it as {kind}."
        raise ParseFailed(f"It is not a {kind} file, or cut off.", hint) from None


@contextmanager
def reading(kind: str, program: str, *faults: type[Exception]) -> Iterator[None]:
    """Turns what a library raises over a damaged file of ``kind`` into ParseFailed; ``faults`` are its own errors."""
    try:
        yield
    except _FAULTS + faults as error:
        if isinstance(error, SyntaxError) and getattr(error, "code", None) == _NO_MEMORY:
            raise MemoryError from None
        cause = " ".join(str(error).split())[:120].rstrip(".") or type(error).__name__
        raise ParseFailed(f"The {kind} is damaged: {cause}.", f"Open and save it in a {program}.") from None


def _check(members: Mapping[str, zipfile.ZipInfo], kind: str) -> None:
    read = [entry for name, entry in members.items() if not _NEVER_READ.search(name)]
    size, packed = sum(entry.file_size for entry in read), sum(entry.compress_size for entry in read)
    if size > MAX_UNPACKED_BYTES:
        cause = f"The {kind} unpacks to {size:,} bytes; the limit is {MAX_UNPACKED_BYTES:,}."
        raise ParseFailed(cause, "Split it.")
    if size > MIN_SUSPECT_BYTES and size > MAX_RATIO * packed:
        cause = f"The {kind} unpacks {packed:,} bytes to {size:,}, more than {MAX_RATIO} to 1, like a zip bomb."
        raise ParseFailed(cause, "Save its content in a new file, or split it.")
    if any(entry.flag_bits & _ENCRYPTED or entry.compress_type not in _METHODS for entry in read):
        raise ParseFailed(f"The {kind} is encrypted or packed in an unknown way.", f"Save it as {kind} again.")


def _copy(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], kind: str) -> io.BytesIO:
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as written:
        for name, entry in members.items():
            written.writestr(name, b"" if _NEVER_READ.search(name) else _content(archive, entry, kind))
    copy.seek(0)
    return copy


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, kind: str) -> bytes:
    with archive.open(entry) as member:
        # A size makes zipfile inflate that much and no more; left to itself it inflates first and cuts off then.
        content = member.read(entry.file_size + 1)
    if len(content) != entry.file_size:
        raise ParseFailed(f"The {kind} is damaged: a part is shorter than declared.", "Save it again.")
    return content
