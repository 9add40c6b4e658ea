from __future__ import annotations

from email.message import EmailMessage

import pytest

from pipeline.adapters.parsers.eml import EmlParser
from pipeline.errors import ParseFailed
from pipeline.types import ParsedDocument, RecordFields, Source

HEAD = "From: Ann <ann@example.org>\nTo: bob@example.org\nDate: Sat, 21 Nov 2026 10:00:00 +0000"


def parsed(data: bytes) -> ParsedDocument:
    return EmlParser().parse(data, Source(key="k", origin="/data/my mail.eml", format="eml"), RecordFields())


def mail(subject: str = "Größe der Eulen", text: str = "They hunt at night.") -> EmailMessage:
    message = EmailMessage()
    for line in HEAD.splitlines():
        message[line.partition(": ")[0]] = line.partition(": ")[2]
    message["Subject"] = subject
    message.set_content(text)
    return message


def test_the_subject_is_the_title_and_the_head_comes_before_the_text() -> None:
    document = parsed(bytes(mail()))
    assert document.title == "Größe der Eulen"
    assert document.text == f"{HEAD}\n\nThey hunt at night."


def test_without_a_subject_the_title_is_the_files_name() -> None:
    assert parsed(b"From: a@example.org\n\nhello").title == "my mail"


def test_plain_text_is_preferred_and_attached_documents_are_named() -> None:
    message = mail()
    message.add_alternative("<p>They hunt at <b>night</b>, in HTML.", subtype="html")
    message.add_attachment(b"%PDF-", maintype="application", subtype="pdf", filename="Größe.pdf")
    message.add_attachment("inside", filename="notes.txt")
    message.add_attachment(b"x", maintype="image", subtype="png", filename="logo.png")
    assert parsed(bytes(message)).text == f"{HEAD}\nAttachments: Größe.pdf, notes.txt\n\nThey hunt at night."


def test_html_alone_goes_through_the_html_parser() -> None:
    message = mail()
    page = "<h1>Eulen</h1><p>jagen nachts für 5 €<script>x()</script>"
    message.set_content(page, subtype="html", charset="iso-8859-15")
    document = parsed(bytes(message))
    assert document.text.endswith("\n\nEulen\n\njagen nachts für 5 €")
    assert document.blocks[-1].section == "Eulen"


@pytest.mark.parametrize("charset", ["us-ascii", "utf-8", "no-such-charset", "x" * 300])
def test_a_wrong_charset_is_forgiven(charset: str) -> None:
    data = f"From: a@example.org\nContent-Type: text/plain; charset={charset}\n\nGrüße aus Köln".encode("latin-1")
    assert parsed(data).text.endswith("Grüße aus Köln")


def test_broken_headers_and_encodings_are_forgiven() -> None:
    data = (
        b"From: =?utf-8?b?////?= <<a@@b>\nSubject: =?x-none?q?caf=E9?= \xff\xfe\nDate: never\nMIME-Version: 1\n"
        b'Content-Type: multipart/mixed; boundary="b"\n\n--b\nContent-Transfer-Encoding: base64\n\naGVsbG8*gd29ybGQ\n'
    )
    assert "hello world" in parsed(data).text


def test_what_has_no_head_is_no_mail() -> None:
    with pytest.raises(ParseFailed, match="no head"):
        parsed(b"Dear reader,\n\nthis is a letter.")


def nested(kind: str) -> bytes:
    if kind == "multipart":
        parts = (f'Content-Type: multipart/mixed; boundary="b{n}"\n\n--b{n}\n' for n in range(3_000))
        return f"From: a\n{''.join(parts)}\nhello".encode()
    return b"From: a\n" + b"Content-Type: message/rfc822\n\n" * 30_000 + b"\nhello"


@pytest.mark.parametrize("kind", ["multipart", "forwarded"])
def test_deep_nesting_is_refused_at_once(kind: str) -> None:
    with pytest.raises(ParseFailed, match="nested too deeply"):
        parsed(nested(kind))


def test_parts_without_end_are_refused_at_once() -> None:
    head = b'From: a\nContent-Type: multipart/mixed; boundary="x"\n\n'
    with pytest.raises(ParseFailed, match="1,000,000 parts"):
        parsed(head + b"--x\n\nh\n" * 1_000_000)


@pytest.mark.parametrize(
    "header", ["To: " + "a@b.c," * 100_000, "To: " + "(" * 100_000, "Subject: " + "=?utf-8?q?" * 50_000]
)
def test_endless_headers_take_no_time(header: str) -> None:
    assert parsed(f"From: a@example.org\n{header}\n\nhello".encode()).text.endswith("hello")
