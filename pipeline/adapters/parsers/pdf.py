"""PDF through pdfium: one block per page."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence

import pypdfium2
import pypdfium2.raw as pdfium

from pipeline.adapters.parsers.assembly import Assembly, check_length, file_title, one_line
from pipeline.errors import ParseFailed
from pipeline.types import ParsedDocument, RecordFields, Source

MAX_PAGES = 100_000
"""A page can be named any number of times."""
MAX_STREAM_BYTES = 100_000_000
"""Unpacked, of a stream that may hold text. pdfium unpacks up to a billion bytes, each of them can become a hundred in
memory, and where memory ends it ends the process.
"""

_HEADER_BYTES = 1024
_STEP = 1 << 20
_MAX_DEFLATE_RATIO = 1032
_STREAM = re.compile(rb"(?<!end)stream\r?\n")
_FLATE = re.compile(rb"/Fl(?:ateDecode)?\b")
_NEVER_UNPACKED = re.compile(rb"/(?:Image|EmbeddedFile)\b")
_MAX_DICTIONARY_BYTES = 2_000
_MAX_FILTERS = 8
_PARTS = re.compile(r"[^\W_]+")
_COMPOUNDS = re.compile(r"[^\W_]+-[^\W_]+")
_HYPHEN_AT_LINE_END = re.compile(r"([^\W_]+)(?:[\x02\xad\ufffe]|-[ \t]*\r?\n)([^\W_]+)")  # pdfium writes U+0002, U+FFFE
_WORD = re.compile(r"[^\W\d_]{3,}")
_JUNK_TITLE = re.compile(r"untitled|microsoft (word|powerpoint)|\.(docx?|pptx?|indd|tex|qxd|dvi)$", re.IGNORECASE)


class PdfParser:
    """The text layer of a PDF, pages apart by a blank line; page numbers count from 1, as viewers do."""

    def parse(self, data: bytes, source: Source, fields: RecordFields) -> ParsedDocument:
        """Text per page; raises ParseFailed for what is no PDF, is damaged or asks for a password."""
        if b"%PDF-" not in data[:_HEADER_BYTES]:
            raise ParseFailed("It is not a PDF file: the header '%PDF-' is missing.", "Check what was downloaded.")
        _check_streams(data)
        document = _open(data)
        try:
            assembly = Assembly()
            for number, text in enumerate(rejoin(list(_pages(document))), start=1):
                assembly.add(text, page=number)
            return assembly.document(_title(document, source))
        finally:
            document.close()


def _open(data: bytes) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == pdfium.FPDF_ERR_PASSWORD:
            raise ParseFailed("The PDF asks for a password.", "Save it without one, then ingest it again.") from None
        hint = "It may be cut off; fetch it again, or open and save it in a PDF viewer."
        raise ParseFailed("The PDF is damaged: it can't be opened.", hint) from None


def _check_streams(data: bytes) -> None:
    """Raise ParseFailed for streams that unpack to too much, before pdfium meets them."""
    for found in _STREAM.finditer(data):
        start, end = found.end(), data.find(b"endstream", found.end())
        # As far as it can be seen from outside: in encrypted files it can't.
        dictionary = data[max(0, found.start() - _MAX_DICTIONARY_BYTES) : found.start()].rpartition(b" obj")[2]
        filters = min(_MAX_FILTERS, max(1, len(_FLATE.findall(dictionary))))
        packed = memoryview(data)[start : end if end >= 0 else len(data)]
        if _NEVER_UNPACKED.search(dictionary) or len(packed) * _MAX_DEFLATE_RATIO**filters <= MAX_STREAM_BYTES:
            continue
        pieces: Iterable[bytes] = (bytes(packed[at : at + _STEP]) for at in range(0, len(packed), _STEP))
        for _ in range(filters):
            pieces = _inflated(pieces)
        for _piece in pieces:
            pass


def _inflated(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """``pieces`` unpacked, in steps; ends where they are damaged, as pdfium does."""
    inflater, size = zlib.decompressobj(), 0
    for piece in pieces:
        left = piece
        while left and not inflater.eof:
            try:
                step = inflater.decompress(left, _STEP)
            except zlib.error:
                return
            left = inflater.unconsumed_tail
            size += len(step)
            if size > MAX_STREAM_BYTES:
                cause = f"The PDF is packed like a zip bomb: a part unpacks to more than {MAX_STREAM_BYTES:,} bytes."
                raise ParseFailed(cause, "Print it into a new PDF.")
            yield step


def _pages(document: pypdfium2.PdfDocument) -> Iterator[str]:
    """The text of each page; closes a page before it opens the next, which bounds memory."""
    if len(document) > MAX_PAGES:
        raise ParseFailed(f"The PDF has {len(document):,} pages; the limit is {MAX_PAGES:,}.", "Split it.")
    chars = 0
    for index in range(len(document)):
        try:
            page = document[index]
            layer = page.get_textpage()
            text = layer.get_text_bounded()
        except pypdfium2.PdfiumError:
            hint = "Open and save it in a PDF viewer."
            raise ParseFailed(f"The PDF is damaged: page {index + 1} can't be read.", hint) from None
        layer.close()
        page.close()
        chars += len(text)
        check_length(chars)
        yield text


def rejoin(pages: Sequence[str]) -> list[str]:
    """``pages`` with words whole again that were broken at the end of a line.

    Whether the hyphen belongs to the word ("third-party") or to the line ("docu-ment"), the document itself tells:
    by the forms it uses elsewhere, or else by whether both halves are words in it.
    """
    unbroken = [_HYPHEN_AT_LINE_END.sub(" ", page) for page in pages]
    words = {word.lower() for page in unbroken for pattern in (_PARTS, _COMPOUNDS) for word in pattern.findall(page)}

    def whole(found: re.Match[str]) -> str:
        first, second = found[1].lower(), found[2].lower()
        if first + second in words and found[2][0].islower():
            return found[1] + found[2]
        parted = f"{first}-{second}" in words or (first in words and second in words)
        keeps_hyphen = parted or not (found[1][-1].isalpha() and found[2][0].islower())
        return f"{found[1]}-{found[2]}" if keeps_hyphen else found[1] + found[2]

    return [_HYPHEN_AT_LINE_END.sub(whole, page) for page in pages]


def _title(document: pypdfium2.PdfDocument, source: Source) -> str:
    """The file's name if it has a word in it, else the title in the metadata, which is often one of a template."""
    name = file_title(source)
    if _WORD.search(name):
        return name
    title = one_line(str(document.get_metadata_dict().get("Title", "")))
    return title if _WORD.search(title) and not _JUNK_TITLE.search(title) else name
