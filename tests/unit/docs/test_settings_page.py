"""docs/settings.md against the settings themselves and the Procfile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from pipeline.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+?) \|", PAGE, re.MULTILINE))
PROSE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]


def variable(name: str, field: FieldInfo) -> str:
    """The environment variable of a setting."""
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"{PREFIX}{name}".upper()


def shown(default: Any) -> str:
    """A default as the page spells it: as it would stand in the environment, a dash for none."""
    if default is None:
        return "–"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


SETTINGS = {variable(name, field): field for name, field in Settings.model_fields.items()}


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_is_on_the_page_with_its_default(name: str) -> None:
    assert ROWS.get(name) == shown(SETTINGS[name].default)


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_page_names_a_setting_that_does_not_exist(path: Path) -> None:
    named = set(re.findall(rf"{PREFIX}[A-Z_]+", path.read_text(encoding="utf-8")))
    assert named <= set(SETTINGS)


def test_the_variables_of_the_procfile_are_on_the_page_with_their_defaults() -> None:
    """But for the name of the process, whose default differs from line to line."""
    used = re.findall(r"\$\{([A-Z_]+):-([^$}]+)\}", (ROOT / "Procfile").read_text(encoding="utf-8"))
    own = {name: default for name, default in used if not name.startswith(PREFIX) and "PROCESS_NAME" not in name}
    assert own
    assert {name: ROWS.get(name) for name in own} == {name: f"`{default}`" for name, default in own.items()}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_limits_of_a_number_are_on_the_page_where_both_are_set(name: str) -> None:
    limits = {type(limit).__name__: limit for limit in SETTINGS[name].metadata}
    if {"Ge", "Le"} <= limits.keys():
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
        assert f"{limits['Ge'].ge} to {limits['Le'].le}" in row
