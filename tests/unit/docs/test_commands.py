"""Commands that the documentation tells people to type, against the command line itself. Nothing is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from deploy.console.main import app

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]
MANAGE: Any = typer.main.get_command(app)

_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"python manage\.py (.+?)(?:\)$|$)", re.MULTILINE)
_MENTION = re.compile(r"`(?:python )?manage\.py ([^`]+)`")


def typed() -> Iterator[tuple[str, str]]:
    """(page, arguments) of each command in a code block."""
    for page in PAGES:
        for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
            yield from ((page.name, line.strip()) for line in _LINE.findall(block))


def mentioned() -> Iterator[tuple[str, str]]:
    """(page, arguments) of each command named in a sentence, where arguments may be left out."""
    for page in PAGES:
        yield from ((page.name, found) for found in _MENTION.findall(page.read_text(encoding="utf-8")))


def find(words: list[str]) -> tuple[Any, list[str]]:
    """The command that ``words`` begin with, and the words after its name."""
    command = MANAGE
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def leaves(command: Any, path: str = "") -> Iterator[str]:
    """Names of all commands, such as ``kb list``."""
    for name, child in command.commands.items():
        yield from leaves(child, f"{path}{name} ") if hasattr(child, "commands") else [f"{path}{name}"]


@pytest.mark.parametrize(("page", "arguments"), list(typed()))
def test_a_command_in_a_code_block_can_be_typed_as_it_stands(page: str, arguments: str) -> None:
    """The parser of the command line takes it: command, options, their values, and no argument too few or too many."""
    command, words = find(shlex.split(arguments, comments=True))
    command.make_context("manage.py", words)


@pytest.mark.parametrize(("page", "arguments"), list(mentioned()))
def test_a_command_in_a_sentence_exists_with_its_options(page: str, arguments: str) -> None:
    command, words = find(shlex.split(arguments))
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options


@pytest.mark.parametrize("name", list(leaves(MANAGE)))
def test_every_command_is_shown_once_at_least(name: str) -> None:
    assert any(arguments.split()[: len(name.split())] == name.split() for _, arguments in typed())


def test_every_option_of_ask_is_in_the_guide() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    options = {option for p in MANAGE.commands["ask"].params for option in p.opts if option.startswith("--")}
    assert {option for option in options if f"`{option}`" not in guide} == set()
