"""The short form of ``python -m tests.chaos``: one seed, fewer documents, pgvector alone; docs/operations.md has the
long one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.command_line import ROOT

SEED = 1
DOCUMENTS = 150


def test_an_ingest_loses_nothing_while_workers_are_killed_and_services_restart(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    command = ["--store", "pgvector", "--seeds", "1", "--first-seed", str(SEED), "--documents", str(DOCUMENTS)]
    limits = ["--least-kills", "2", "--least-seconds", "6", "--chaos-seconds", "8", "--run-seconds", "120"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *command, *limits, "--json", str(file)],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = json.loads(file.read_text())
    assert report["findings"] == []
    assert sum(report["kills"].values()) >= 2
    assert report["embedded_texts"] >= report["distinct_texts"] > 0
