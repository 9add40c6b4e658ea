"""The short form of ``python -m tests.storms``: one storm, fewer questions, pgvector alone; docs/operations.md has the
long one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.command_line import ROOT

STORM = "model"
QUESTIONS = 40


def test_every_question_is_answered_in_time_while_the_model_is_gone() -> None:
    """And all is as it was before: no slot, message or connection is kept, nothing is recorded twice."""
    sizes = ["--questions", str(QUESTIONS), "--concurrency", "20", "--slots", "10", "--timeout", "40"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.storms", STORM, *sizes, "--json"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = json.loads(done.stdout)
    assert (report["storm"], report["findings"], report["slots"]) == (STORM, [], 20)
    assert any("extractive" in modes for modes in report["degraded"])
    assert report["full"] + sum(report["degraded"].values()) == QUESTIONS
