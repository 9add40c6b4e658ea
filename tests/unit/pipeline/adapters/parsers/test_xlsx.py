from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import openpyxl
import pytest

from pipeline.adapters.parsers import assembly, xlsx
from pipeline.adapters.parsers.xlsx import XlsxParser
from pipeline.errors import ParseFailed
from pipeline.types import ParsedDocument, RecordFields, Source
from tests.office_files import SHEET, edited, saved, xlsx_file

SMALL = xlsx_file({"S": [["name", "legs"], ["owl", 2]]})


def parsed(data: bytes) -> ParsedDocument:
    return XlsxParser().parse(data, Source(key="k", origin="/data/my sheet.xlsx", format="xlsx"), RecordFields())


def text_of(*rows: list[Any]) -> str:
    return parsed(xlsx_file({"S": rows})).text


def with_rows(xml: str) -> bytes:
    return edited(SMALL, SHEET, lambda sheet: sheet.replace(b"</sheetData>", xml.encode() + b"</sheetData>"))


def test_a_sheet_is_a_section_and_a_row_names_its_columns() -> None:
    animals = [["name", "legs"], ["owl", 2], [], ["ant", 6]]
    document = parsed(xlsx_file({"Animals": animals, "Notes": [["Only a remark"]]}, title="Zoo"))
    assert document.title == "Zoo"
    assert [(document.text[b.start : b.end], b.section) for b in document.blocks] == [
        ("name: owl; legs: 2\nname: ant; legs: 6", "Animals"),
        ("Only a remark", "Notes"),
    ]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([["Zoo of Berlin"], [], ["name", "legs"], ["owl", 2]], "Zoo of Berlin\nname: owl; legs: 2"),
        ([[1, 2], [3, 4]], "1\t2\n3\t4"),
        ([["a", "a"], ["b", "c"]], "a\ta\nb\tc"),
        ([["name", "legs"]], "name\tlegs"),
        ([["name", None, "legs"], ["owl", "x", None, "y"]], "name: owl; x; y"),
    ],
    ids=["title above", "numbers", "same names", "header alone", "columns without a name"],
)
def test_a_row_is_a_header_if_it_can_be_one(rows: list[list[Any]], expected: str) -> None:
    assert text_of(*rows) == expected


def test_values_are_written_as_a_person_reads_them() -> None:
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC).replace(tzinfo=None)
    row = [noon, noon.replace(hour=0), 0.1 + 0.2, True, "two\nlines", 1e21]
    assert text_of(row) == "2026-11-21 12:00:00\t2026-11-21\t0.3\ttrue\ttwo lines\t1e+21"


def test_a_formula_gives_the_value_it_last_had_and_hidden_sheets_nothing() -> None:
    workbook = openpyxl.Workbook()
    workbook.create_sheet("secret").append(["hidden text"])
    workbook["secret"].sheet_state = "hidden"
    workbook.worksheets[0].append(["=1+1", "kept"])
    data = edited(
        saved(workbook), SHEET, lambda xml: xml.replace(b"<v></v>", b"<v>2</v>").replace(b"<v />", b"<v>2</v>")
    )
    assert parsed(data).text == "2\tkept"


def test_the_size_that_a_sheet_declares_is_not_believed() -> None:
    data = edited(SMALL, SHEET, lambda xml: xml.replace(b"A1:B2", b"A1:XFD1000000000"))
    assert parsed(data).text == "name: owl; legs: 2"


def test_a_stray_cell_far_away_does_no_harm() -> None:
    assert parsed(with_rows('<row r="50000"><c r="XFD50000"><v>7</v></c></row>')).text.endswith("\n7")


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        ('<row r="1000000000"><c r="A1000000000"><v>1</v></c></row>', "more cells than are read"),
        ('<row r="3"><c r="ZZZZZZZ3"><v>1</v></c></row>', "not a valid column name"),
    ],
    ids=["row", "column"],
)
def test_a_cell_beyond_the_grid_is_refused(rows: str, cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx, "MAX_ROWS", 50_000)
    with pytest.raises(ParseFailed, match=cause):
        parsed(with_rows(rows))


def test_cells_and_text_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx, "MAX_CELLS", 40_000)
    wide = "".join(f'<row r="{n}"><c r="XFD{n}"><v>1</v></c></row>' for n in range(3, 6))
    with pytest.raises(ParseFailed, match="more cells than are read"):
        parsed(with_rows(wide))
    monkeypatch.setattr(assembly, "MAX_TEXT_CHARS", 1_000)
    with pytest.raises(ParseFailed, match="more than 1,000 characters"):
        text_of(*[["the same text in every cell"]] * 50)
