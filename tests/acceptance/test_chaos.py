"""The short form of ``python -m tests.chaos``: one seed, fewer documents; docs/operations.md has the long one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import ROOT
from tests.weaviate_server import weaviate_program

SEED = 1
DOCUMENTS = 400


@pytest.mark.parametrize("store", ["pgvector", "weaviate"])
def test_an_ingest_loses_nothing_while_workers_are_killed_and_services_restart(store: str, tmp_path: Path) -> None:
    if store == "weaviate" and weaviate_program() is None:
        pytest.skip("no program weaviate on PATH")
    file = tmp_path / "report.json"
    command = ["--store", store, "--seeds", "1", "--first-seed", str(SEED), "--documents", str(DOCUMENTS)]
    limits = ["--least-kills", "2", "--least-seconds", "6", "--chaos-seconds", "10", "--run-seconds", "120"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *command, *limits, "--json", str(file)],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = json.loads(file.read_text())
    assert report["findings"] == []
    assert sum(report["kills"].values()) >= 2
    assert report["embedded_texts"] >= report["distinct_texts"] > 0
