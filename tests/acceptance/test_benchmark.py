"""The benchmark of ingest, as ``make bench-ingest`` runs it, at its smallest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.corpus import COLLECTION
from tests.command_line import ROOT

PASSAGES = 300


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What it reports of pgvector and of the twin."""
    if not COLLECTION.exists():
        pytest.skip("the collection is not here")
    file: Path = tmp_path_factory.mktemp("benchmark") / "report.json"
    options = ["--parts", "bulk,twin", "--stores", "pgvector", "--passages", str(PASSAGES), "--json", str(file)]
    command = [sys.executable, "-m", "tests.benchmarks.ingest", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(file.read_text())["bulk pgvector"]
    return found


def test_celeriac_and_its_twin_make_the_same_passages_of_the_same_file(report: dict[str, Any]) -> None:
    [pair] = report["rounds"]
    assert pair["celeriac"]["passages"] == pair["twin"]["passages"] >= PASSAGES


def test_all_processor_time_is_accounted_for(report: dict[str, Any]) -> None:
    """By process and by work it is the same sum, and the workers' samples have seen the parts that must have run."""
    celeriac = report["rounds"][0]["celeriac"]
    assert sum(celeriac["cpu_by_process"].values()) == pytest.approx(celeriac["cpu_seconds"], rel=0.02)
    assert all(celeriac["cpu_by_work"][kind] > 0 for kind in ("chunking", "model", "store", "ledger", "store server"))
    assert 0 < celeriac["bookkeeping_share"] < celeriac["overhead_share"] < 1
