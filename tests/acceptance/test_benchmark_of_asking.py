"""The benchmark of asking, as ``make bench-ask`` runs it, at its smallest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import ROOT

QUESTIONS = 80


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What it reports of pgvector and of the twin."""
    file: Path = tmp_path_factory.mktemp("benchmark") / "report.json"
    options = ["--parts", "rate,twin,profile", "--stores", "pgvector", "--rounds", "1", "--json", str(file)]
    small = ["--documents", "50", "--questions", str(QUESTIONS), "--in-flight", "10", "--last-ms", "300"]
    command = [sys.executable, "-m", "tests.benchmarks.ask", *options, *small]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(file.read_text())["pgvector"]
    return found


def test_celeriac_and_its_twin_answer_the_same_questions(report: dict[str, Any]) -> None:
    [pair] = report["rounds"]
    assert pair["celeriac"]["answered"] == pair["twin"]["answered"] == QUESTIONS
    assert report["cpu_ratio"] > 0


def test_no_first_piece_comes_before_the_service_has_given_it(report: dict[str, Any]) -> None:
    for load in report["rounds"][0].values():
        assert 310 <= load["first_ms"]["p50"] <= load["first_ms"]["max"] <= load["whole_ms"]["max"]


def test_the_workers_time_is_all_shared_out(report: dict[str, Any]) -> None:
    in_workers = report["rounds"][0]["celeriac"]["cpu_ms_by_process"]["ask"]
    assert sum(report["profile"]["by_work"].values()) == pytest.approx(in_workers, rel=0.02)
    assert report["profile"]["by_work"]["ledger"] > 0
