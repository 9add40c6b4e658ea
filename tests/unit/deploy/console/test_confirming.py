"""Asking before something is taken away."""

from __future__ import annotations

import io

import pytest
import typer

from deploy.console import confirming
from deploy.console.confirming import confirm, counted
from pipeline.errors import BadSettings


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(confirming, "_somebody_is_there", lambda: True)
    return monkeypatch


def test_without_a_terminal_nobody_is_asked() -> None:
    with pytest.raises(BadSettings, match=r"^Give --yes: there is no terminal to ask at\.$"):
        confirm("Really?", yes=False, as_json=False)


def test_a_program_is_not_asked(terminal: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSettings, match="Give --yes: with --json"):
        confirm("Really?", yes=False, as_json=True)


def test_with_yes_it_goes_on_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        confirm("Really?", yes=True, as_json=as_json)
    assert capsys.readouterr() == ("", "")


def test_the_question_is_asked_beside_the_result(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.setattr("sys.stdin", io.StringIO("y\nn\n"))
    confirm("Really?", yes=False, as_json=False)
    with pytest.raises(typer.Abort):
        confirm("Really?", yes=False, as_json=False)
    shown = capsys.readouterr()
    assert (shown.out.strip(), shown.err.count("Really? [y/N]")) == ("", 2)


def test_one_is_no_plural() -> None:
    assert [counted(number, "turn") for number in (0, 1, 1200)] == ["0 turns", "1 turn", "1,200 turns"]
