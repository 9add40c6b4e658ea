"""Asking a person before something is taken away for good."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pipeline.errors import BadSettings

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def confirm(question: str, *, yes: bool, as_json: bool) -> None:
    """Go on with ``yes``, or if whoever sits at the terminal says so; raises BadSettings where nobody can be asked."""
    if yes:
        return
    if as_json:
        raise BadSettings("Give --yes: with --json nobody is asked.")
    if not _somebody_is_there():
        raise BadSettings("Give --yes: there is no terminal to ask at.")
    typer.confirm(question, abort=True, err=True)


def counted(number: int, what: str) -> str:
    """``1 turn``, ``2 turns``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _somebody_is_there() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
