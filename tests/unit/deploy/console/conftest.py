"""A terminal for tests."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from deploy.console import output


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What stands on a terminal of 80 columns."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, color_system=None, width=80, highlight=False, soft_wrap=True)
    monkeypatch.setattr(output, "out", console)
    return shown
