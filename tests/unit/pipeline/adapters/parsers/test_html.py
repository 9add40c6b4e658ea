from __future__ import annotations

import time

import pytest

from pipeline.adapters.parsers.html import HtmlParser
from pipeline.types import ParsedDocument, RecordFields, Source


def parsed(html: str | bytes) -> ParsedDocument:
    source = Source(key="k", origin="/site/start page.html", format="html")
    return HtmlParser().parse(html if isinstance(html, bytes) else html.encode(), source, RecordFields())


def test_headings_give_the_section_path() -> None:
    document = parsed("<h1>Guide</h1><p>a<h2>In<b>stall</b></h2><p>b<h1>Next</h1>c")
    assert [(document.text[b.start : b.end], b.section) for b in document.blocks] == [
        ("Guide\n\na", "Guide"),
        ("Install\n\nb", "Guide > Install"),
        ("Next\n\nc", "Next"),
    ]


def test_scripts_navigation_frame_and_hidden_elements_are_left_out() -> None:
    html = (
        "<nav>n</nav><header>h</header><aside>a</aside><script>s</script><style>t</style><p>text</p>"
        "<p hidden>i</p><div style='display: none'>j</div><!-- k --><footer>f</footer>"
    )
    assert parsed(html).text == "text"


def test_the_header_of_the_main_content_stays() -> None:
    assert parsed("<header>site</header><main><header><h1>T</h1></header><p>x</main>").text == "T\n\nx"


def test_a_page_that_is_all_frame_is_kept() -> None:
    assert parsed("<header><p>only this</p></header>").text == "only this"


def test_tables_are_a_line_a_row_and_keep_empty_cells() -> None:
    html = "<table><tr><th></th><th>A</th></tr><tr><td>x<td><p>1</p><p>2</p></tr></table>"
    assert parsed(html).text == "| A\nx | 1 2"


def test_items_have_dashes_and_code_keeps_its_lines() -> None:
    assert parsed("<ul><li>one<li><p>two</p></ul><pre>if x:\n    y</pre>").text == "- one\n- two\n\nif x:\n    y"


def test_inline_markup_does_not_part_words() -> None:
    assert parsed("<p>un<b>believ</b>able   and\nmore<br>next").text == "unbelievable and more\nnext"


@pytest.mark.parametrize(
    ("html", "title"),
    [("<title> A &amp; B </title><h1>C</h1>x", "A & B"), ("<h1>C</h1>x", "C"), ("<p>x", "start page")],
)
def test_the_title_is_that_of_the_page_its_heading_or_the_file(html: str, title: str) -> None:
    assert parsed(html).title == title


@pytest.mark.parametrize("charset", ["iso-8859-1", "windows-1251", "utf-8", "no-such-charset"])
def test_the_declared_charset_counts_where_it_works(charset: str) -> None:
    text, encoding = ("Привет, мир", "cp1251") if charset == "windows-1251" else ("café", "utf-8")
    encoding = "cp1252" if charset == "iso-8859-1" else encoding
    assert parsed(f"<meta charset={charset}><p>{text}".encode(encoding)).text == text


@pytest.mark.parametrize(
    "opening", ["<div>", "<b>", "<ul><li>", "<table><tr><td>", "<span>", "<p><a>", "<svg><g>", "<div "]
)
def test_deep_nesting_takes_no_undue_time(opening: str) -> None:
    """100,000 levels; containers would cost the square of that in a tree."""
    started = time.process_time()
    document = parsed("<p>before</p>" + opening * 100_000 + "deep")
    assert time.process_time() - started < 15
    assert "before" in document.text
