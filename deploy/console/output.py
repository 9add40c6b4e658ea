"""What a person reads, and its twin for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType, Segments
from rich.table import Table
from rich.text import Text

from pipeline.errors import CeleriacError

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

# Between two columns of a table, and the width of one that nobody sees at a terminal.
_GAP, _ENDLESS = 2, 1_000_000


def say_error(error: CeleriacError) -> None:
    """One line on standard error; with ``--json`` the error as JSON."""
    if "--json" in sys.argv:
        sys.stderr.write(json.dumps({"error": error.to_json()}, ensure_ascii=False) + "\n")
        return
    line = Text.assemble(("error: ", "bold red"), plain(error.message), (" " + plain(error.hint)).rstrip())
    err.print(line)


def say_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=_jsonable) + "\n")


def say_line(value: Any) -> None:
    """One JSON document on a line of its own, at once: for programs that read along."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=_jsonable) + "\n")
    sys.stdout.flush()


def say(text: str = "", style: str = "") -> None:
    """One line, taken literally."""
    out.print(Text(plain(text), style=style))


def note(text: str) -> None:
    """One line beside the result: on standard error, dimmed."""
    err.print(Text(plain(text), style="dim"))


def counting(text: str, *, last: bool) -> None:
    """A line that is written over while something is counted; where nobody watches only the last one appears."""
    if err.is_terminal:
        err.control(Control(ControlType.CARRIAGE_RETURN))
    if err.is_terminal or last:
        err.print(Text(text, style="dim"), end="\n" if last else "")


def say_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, unbroken: Collection[str] = ()
) -> None:
    """A table whose cells are taken literally; numbers to the right. At a terminal what is too long is folded, but no
    id, number or time, and none of the columns ``unbroken``; elsewhere nothing is: a program may read it line by line.
    """
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    listed = [list(row) for row in rows]
    for number, column in enumerate(columns):
        numeric, exact = (_all(listed, number, kinds) for kinds in (int | float, int | float | datetime))
        whole = exact or column in ("id", *unbroken)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=whole)
    for row in listed:
        table.add_row(*(cell if isinstance(cell, Text) else Text(_cell(cell)) for cell in row))
    if out.is_terminal:
        out.print(table)
    else:
        out.print(Segments(out.render(table, out.options.update(width=_ENDLESS))), end="")


def room_beside(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> int | None:
    """How many characters the terminal leaves for one more column of that table; None where there is no terminal."""
    if not out.is_terminal:
        return None
    cells = [columns, *([_cell(cell) for cell in row] for row in rows)]
    return out.width - sum(_GAP + max(map(len, column)) for column in zip(*cells, strict=True))


def plain(text: str) -> str:
    """Text without what a terminal would obey or an encoder refuse: a document must not be able to move the cursor."""
    kept = "".join(c if c in "\n\t" or (c.isprintable() or ord(c) > 0x9F) else "�" for c in text)
    return kept.encode("utf-8", "replace").decode()


def _all(rows: Sequence[Sequence[Any]], number: int, kinds: Any) -> bool:
    return bool(rows) and all(isinstance(row[number], kinds) for row in rows)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return plain(f"{value:,}" if isinstance(value, int) else str(value))


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, CeleriacError):
        return value.to_json()
    if isinstance(value, datetime):  # as the fields of a model are written, beside which it may stand
        return value.isoformat().replace("+00:00", "Z")
    return str(value)
