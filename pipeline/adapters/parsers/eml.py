"""EML: the text of an e-mail below its subject, sender, receivers and date."""

from __future__ import annotations

import codecs
import email
from collections.abc import Iterator
from email.message import EmailMessage, MIMEPart
from email.policy import EmailPolicy
from typing import Any

from pipeline.adapters.parsers.assembly import Assembly, file_title, one_line
from pipeline.adapters.parsers.html import HtmlParser
from pipeline.adapters.parsers.text import decode
from pipeline.errors import ParseFailed
from pipeline.types import ParsedDocument, RecordFields, Source

MAX_HEADER_CHARS = 2_000
"""The standard library takes the square of a header's length in time, or more; some lists of receivers are long."""
MAX_PARTS = 10_000
"""Parts become objects of some kilobytes each, however small they are."""
MAX_NAMED_ATTACHMENTS = 50

_SHOWN = ("From", "To", "Cc", "Date")
_TYPICAL = (*_SHOWN, "Subject", "Message-ID", "Received", "Return-Path", "MIME-Version")
_PICTURES_AND_SOUND = frozenset({"image", "audio", "video"})


class EmlParser:
    """The plain text if there is one, else the HTML. Attached documents are named and not read."""

    def parse(self, data: bytes, source: Source, fields: RecordFields) -> ParsedDocument:
        """Head and text; raises ParseFailed for what is no e-mail or nested too deeply."""
        try:
            message = _message(data)
            assembly = Assembly()
            assembly.add("\n".join(_head(message)))
            _add_text(message, assembly, source, fields)
            return assembly.document(_header(message, "Subject") or file_title(source))
        except RecursionError:
            raise ParseFailed("The e-mail is nested too deeply.", "Save its text by itself.") from None
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # of its headers and encodings
            cause = one_line(str(error)) or type(error).__name__
            raise ParseFailed(f"The e-mail is damaged: {cause}.", "Save its text by itself.") from None


class _Bounded(EmailPolicy):
    """The modern policy, which reads no more of a header than MAX_HEADER_CHARS."""

    def header_fetch_parse(self, name: str, value: Any) -> Any:
        return super().header_fetch_parse(name, value[:MAX_HEADER_CHARS] if type(value) is str else value)


def _message(data: bytes) -> EmailMessage:
    if (count := data.count(b"\n--")) > 2 * MAX_PARTS:
        raise ParseFailed(f"The e-mail has {count:,} parts or more lines like them.", "Save its text by itself.")
    message = email.message_from_bytes(data, policy=_Bounded())
    if not isinstance(message, EmailMessage) or not any(name in message for name in _TYPICAL):
        raise ParseFailed("It is not an e-mail: it has no head.", "Save it as EML from the mail program.")
    return message


def _header(message: EmailMessage, name: str) -> str:
    """A header in one line; a broken one as it stands."""
    try:
        return one_line(str(message.get(name, "")))
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError):
        return ""


def _head(message: EmailMessage) -> Iterator[str]:
    for name in _SHOWN:
        if value := _header(message, name):
            yield f"{name}: {value}"
    if names := list(_attachments(message)):
        yield f"Attachments: {', '.join(names[:MAX_NAMED_ATTACHMENTS])}"


def _attachments(message: EmailMessage) -> Iterator[str]:
    attached = (part for part in message.walk() if part.get_content_disposition() == "attachment")
    documents = (part for part in attached if part.get_content_maintype() not in _PICTURES_AND_SOUND)
    return (name for part in documents if (name := one_line(part.get_filename() or "")))


def _add_text(message: EmailMessage, assembly: Assembly, source: Source, fields: RecordFields) -> None:
    body = message.get_body(("plain", "html"))
    if body is None:
        return
    text = _text(body)
    if body.get_content_subtype() != "html":
        assembly.add(text)
        return
    page = HtmlParser().parse(codecs.BOM_UTF8 + text.encode("utf-8", "replace"), source, fields)
    for block in page.blocks:
        assembly.add(page.text[block.start : block.end], section=block.section)


def _text(part: MIMEPart) -> str:
    """By the charset the part declares where that works, otherwise like plain text."""
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    try:
        return data.decode(part.get_content_charset("utf-8"))
    except (LookupError, UnicodeDecodeError):
        return decode(data)
