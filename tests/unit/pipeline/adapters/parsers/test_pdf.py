from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from pipeline.adapters.parsers import assembly
from pipeline.adapters.parsers import pdf as module
from pipeline.adapters.parsers.pdf import PdfParser, rejoin
from pipeline.errors import ParseFailed
from pipeline.types import ParsedDocument, RecordFields, Source
from tests.pdf_file import pdf


def parsed(data: bytes, name: str = "report.pdf") -> ParsedDocument:
    return PdfParser().parse(data, Source(key="k", origin=f"/data/{name}", format="pdf"), RecordFields())


def test_every_page_is_a_block_with_its_number_and_empty_ones_are_none() -> None:
    document = parsed(pdf([["First page"], [], ["Third", "page"]]))
    assert document.text == "First page\n\nThird\npage"
    assert [(document.text[b.start : b.end], b.page) for b in document.blocks] == [
        ("First page", 1),
        ("Third\npage", 3),
    ]


def test_what_is_no_pdf_says_so() -> None:
    with pytest.raises(ParseFailed, match="not a PDF"):
        parsed(b"<html>Not found</html>")


def test_a_pdf_that_is_cut_off_says_so(shared_data: Path) -> None:
    data = next((shared_data / "sec10q_pdfs" / "docs").glob("*.pdf")).read_bytes()
    with pytest.raises(ParseFailed, match="damaged"):
        parsed(data[: len(data) // 3])


def test_an_encrypted_pdf_asks_for_one_without_password() -> None:
    encrypt = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >> /ID [<00> <00>] /Root" % (
        b"41" * 32,
        b"42" * 32,
    )
    with pytest.raises(ParseFailed, match="password"):
        parsed(pdf([["secret"]]).replace(b"/Root", encrypt))


def test_a_hyphen_at_the_end_of_a_line_goes_or_stays_as_the_document_writes_the_word() -> None:
    page = (
        "The document and the third-party software of one party on the market.\n"
        "Another docu-\nment by a third-\nparty, new soft\x02ware, an open\x02market view, "
        "Rule 13a\x0215 and re\ufffeconvey."
    )
    whole = rejoin([page])[0]
    assert whole.endswith(
        "Another document by a third-party, new software, an openmarket view, Rule 13a-15 and reconvey."
    )
    assert rejoin(["open the market\n" + page])[0].count("open-market") == 1


@pytest.mark.parametrize(
    ("name", "title", "expected"),
    [
        ("annual report.pdf", "0001-22", "annual report"),
        ("2305.01234v2.pdf", "Attention and more", "Attention and more"),
        ("12.pdf", "Microsoft Word - x.doc", "12"),
    ],
)
def test_the_title_is_the_files_name_unless_that_says_nothing(name: str, title: str, expected: str) -> None:
    assert parsed(pdf([["x"]], title), name).title == expected


def test_real_filings_are_read_in_full(shared_data: Path) -> None:
    """A filing of 28 pages: figures stay in their rows, and no mark of pdfium's is left."""
    document = parsed((shared_data / "sec10q_pdfs" / "docs" / "2022 Q3 AAPL.pdf").read_bytes(), "2022 Q3 AAPL.pdf")
    assert "Balance as of June 25, 2022 202,522 $ 107.35 $ 28,689" in document.text
    assert document.blocks[-1].page == 28
    assert not set(document.text) & set("\x02\ufffe\r")


def packed(content: bytes, times: int, kind: bytes = b"") -> bytes:
    """A PDF whose page's content is deflated so many times."""
    for _ in range(times):
        content = zlib.compress(content, 9)
    document = pdf([["x"]])
    start, end = document.index(b"<< /Length"), document.index(b"endstream")
    filters = b"/FlateDecode " * times
    stream = b"<< /Length %d /Filter [%s] %s >>\nstream\n%s\n" % (len(content), filters, kind, content)
    return document[:start] + stream + document[end:]


@pytest.mark.parametrize("times", [1, 2])
def test_a_stream_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(times: int) -> None:
    with pytest.raises(ParseFailed, match="a part unpacks to more than 100,000,000 bytes"):
        parsed(packed(bytes(100_000_001), times))


def test_streams_within_the_limit_are_read_and_pictures_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STREAM_BYTES", 100)
    shown = b"BT /F1 12 Tf 72 700 Td (seen) Tj ET"
    assert parsed(packed(shown + b" " * 60, 2)).text == "seen"
    assert parsed(packed(shown + b" " * 100, 1, b"/Subtype /Image")).text == "seen"
    with pytest.raises(ParseFailed, match="a part unpacks"):
        parsed(packed(shown + b" " * 100, 1))


def test_one_page_named_ever_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PAGES", 50)
    again = (
        pdf([["x"]]).replace(b"/Kids [4 0 R]", b"/Kids [" + b"4 0 R " * 60 + b"]").replace(b"/Count 1", b"/Count 60")
    )
    with pytest.raises(ParseFailed, match="60 pages; the limit is 50"):
        parsed(again)
    monkeypatch.setattr(module, "MAX_PAGES", 100)
    monkeypatch.setattr(assembly, "MAX_TEXT_CHARS", 30)
    with pytest.raises(ParseFailed, match="more than 30 characters"):
        parsed(again)
