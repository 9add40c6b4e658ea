from __future__ import annotations

import time
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from pipeline.adapters.parsers.markdown import MarkdownParser, headings
from pipeline.types import ParsedDocument, RecordFields, Source


def parsed(text: str) -> ParsedDocument:
    source = Source(key="k", origin="/docs/user guide.md", format="markdown")
    return MarkdownParser().parse(text.encode(), source, RecordFields())


def sections(text: str) -> list[tuple[str, str]]:
    document = parsed(text)
    return [(document.text[block.start : block.end], block.section) for block in document.blocks]


def test_headings_of_both_kinds_give_the_section_path() -> None:
    assert sections("intro\n# Guide\ntext\n\nInstall\n---\nfoo\n### Deep ###\nx\n# Next\ny") == [
        ("intro", ""),
        ("# Guide\ntext", "Guide"),
        ("Install\n---\nfoo", "Guide > Install"),
        ("### Deep ###\nx", "Guide > Install > Deep"),
        ("# Next\ny", "Next"),
    ]


def test_what_looks_like_a_heading_in_code_is_none() -> None:
    assert [path for _, path in sections("# A\n```sh\n# no\n~~~\n# no\n```\n~~~~\n# no\n~~~\n~~~~\n## B\n")] == [
        "A",
        "A > B",
    ]


def test_rules_tables_and_lists_are_no_headings() -> None:
    assert [path for _, path in sections("# A\n\n---\n\n| a |\n---\n\n- x\n---\n#no\n")] == ["A"]


def test_a_section_is_named_without_markup() -> None:
    assert [path for _, path in sections("# The `--kb` *option* of [ask](x.md) {#ask}\nx snake_case")] == [
        "The --kb option of ask"
    ]


def test_front_matter_gives_the_title_and_is_left_out() -> None:
    document = parsed('---\nlayout: x\ntitle: "My Title"\n---\n# Other\ntext\n')
    assert (document.title, document.text) == ("My Title", "# Other\ntext")


@pytest.mark.parametrize(("text", "title"), [("## Sub\n# Main\n# Other", "Main"), ("## Sub", "user guide")])
def test_without_front_matter_the_first_main_heading_or_the_file_is_the_title(text: str, title: str) -> None:
    assert parsed(text).title == title


def test_headings_are_those_of_a_commonmark_parser(shared_data: Path) -> None:
    """Compared with markdown-it on real texts: headings at the top level whose text is one line."""
    for path in sorted(shared_data.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        tokens = MarkdownIt().parse(text)
        opened = [t for t in tokens if t.type == "heading_open" and t.level == 0 and t.map and t.map[1] - t.map[0] < 3]
        expected = [(t.map[0], int(t.tag[1])) for t in opened if t.map]
        assert [(line, level) for line, level, _ in headings(text.split("\n"))] == expected, path.name


@pytest.mark.parametrize("text", ["#" + " " * 300_000 + "x", "# " + "[" * 300_000, "> " * 150_000, "---\n" * 75_000])
def test_time_is_linear_whatever_the_input(text: str) -> None:
    started = time.process_time()
    parsed(text)
    assert time.process_time() - started < 5
