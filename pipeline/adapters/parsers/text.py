"""Plain text in whatever encoding."""

from __future__ import annotations

import codecs
import re

from pipeline.adapters.parsers.assembly import Assembly, file_title
from pipeline.errors import ParseFailed
from pipeline.types import ParsedDocument, RecordFields, Source

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DETECTED_BYTES = 100_000
_MAX_BAD_SHARE = 0.01
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffd]")  # escape begins the colours in logs
_WESTERN = re.compile(r"[\x00-\x7fÀ-ÖØ-ßà-ëíïñ-öù-üÿŒœ€“”„‘’‚–—…«»‹›°§©®£·¡¿•ªº´™×\xa0]*")
_WESTERN_SHARE = 0.3


class TextParser:
    """Text as it is, without structure."""

    def parse(self, data: bytes, source: Source, fields: RecordFields) -> ParsedDocument:
        """The decoded text, in one block; raises ParseFailed for what is no text."""
        assembly = Assembly()
        assembly.add(decode(data))
        return assembly.document(file_title(source))


def decode(data: bytes) -> str:
    """Text of ``data``: by its byte order mark, as UTF-8, or else as what it most likely is.

    Raises ParseFailed where too many characters are undecodable or control characters.
    """
    text = _decoded(data)
    if text is None or len(_CONTROLS.findall(text)) > _MAX_BAD_SHARE * len(text):
        raise ParseFailed("It is not a text file.", "Its bytes are not text in any known encoding; convert it first.")
    return text


def _decoded(data: bytes) -> str | None:
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return data.decode(encoding, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _mostly_utf8(data) or _western(data) or _detected(data)


def _mostly_utf8(data: bytes) -> str | None:
    """UTF-8 with a few broken characters, as in a log that was cut; not a legacy encoding, which has no valid ones."""
    text = data.decode("utf-8", "replace")
    broken, valid = text.count("\ufffd"), sum(map(len, re.findall(r"[^\x00-\x7f\ufffd]+", text)))
    return text if broken * 10 <= valid else None


def _western(data: bytes) -> str | None:
    """Windows Latin-1, if it gives nothing but letters and signs of western Europe and not too many of them.

    Decided before statistics are asked, because these take a short French text for a Turkish one.
    """
    high = len(data.translate(None, bytes(range(128))))
    text = data.decode("cp1252", "replace")
    return text if high <= _WESTERN_SHARE * len(data) and _WESTERN.fullmatch(text) else None


def _detected(data: bytes) -> str | None:
    from charset_normalizer import from_bytes

    if b"\0" in data[:_DETECTED_BYTES]:
        return None
    best = from_bytes(data[:_DETECTED_BYTES]).best()
    return None if best is None else data.decode(best.encoding, "replace")
