"""An embedding service that first refuses, then fails and hangs, and how much of what it was asked for was in vain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.standin.fixture import StandInProcess


def phases(
    refuses_for: float, *, retry_after: float, fails: float = 0.1, hangs: float = 0.02, evenly: bool = False
) -> list[dict[str, Any]]:
    """Faults of the stand-in: 429 for a time, and from then on that share of status 500 and of no answer at all."""
    share = {"endpoint": "embeddings", "after": refuses_for, "evenly": evenly}
    return [
        {"endpoint": "embeddings", "kind": "status", "status": 429, "retry_after": retry_after, "seconds": refuses_for},
        {**share, "kind": "status", "status": 500, "probability": fails},
        # Drawn where no 500 was, hence a little more often.
        {**share, "kind": "hang", "probability": hangs / (1 - fails)},
    ]


def write_documents(path: Path, count: int) -> Path:
    """Short documents that all differ, as JSON lines."""
    with path.open("w") as lines:
        for number in range(count):
            text = f"Unit {number} runs at {number * 7 % 1000} degrees and is checked every {number % 29 + 1} days."
            lines.write(json.dumps({"id": f"unit{number}", "text": text}) + "\n")
    return path


def calls_per_text(standin: StandInProcess, texts: int) -> float:
    """Texts of all embedding requests, refused and unanswered ones included, to one distinct text."""
    return float(standin.counters()["texts_asked"]) / texts
