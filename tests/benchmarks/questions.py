"""What is asked in the benchmark of asking, of which documents, and how the service behaves that answers.

No two questions are equal, so that no cache ever answers one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

KB = "bench"
_PARTS = ("valve", "pump", "filter", "burner", "sensor", "motor", "seal", "gauge")
_STATES = ("opened", "cleaned", "measured", "replaced", "adjusted", "closed", "logged", "tested")


class Upstream(NamedTuple):
    """How long the model service takes, in seconds: for an embedding; from the request for an answer to its first
    piece, and to its last one; and how many pieces there are.
    """

    embedding: float = 0.060
    first: float = 0.250
    last: float = 0.900
    pieces: int = 40

    @property
    def before_first(self) -> float:
        """What a question waits for the service before its first piece."""
        return self.embedding + self.first

    @property
    def whole(self) -> float:
        """What a question waits for the service altogether."""
        return self.embedding + self.last

    @property
    def config(self) -> dict[str, Any]:
        """The stand-in's configuration for it."""
        return {
            "embedding_latency": self.embedding,
            "first_token": self.first,
            "stream_seconds": self.last - self.first,
            "chunks": self.pieces,
        }


def write_documents(path: Path, count: int) -> Path:
    """JSON lines. Each document has a subject of its own that a question can name, and is one passage of 1,000
    characters or so.
    """
    with path.open("w", encoding="utf-8") as lines:
        for number in range(count):
            record = {"id": f"unit{number}", "title": f"Unit {number}", "text": _text(number)}
            lines.write(json.dumps(record) + "\n")
    return path


def question(number: int, documents: int) -> str:
    """The question of that number: about a document, and like no other."""
    return f"Ticket {number}: how often is unit{number * 7 % documents} checked?"


def _text(number: int) -> str:
    first = (
        f"Part {number} of the plant is called unit{number}. Unit{number} runs at {number * 7 % 1000} degrees and is "
        f"checked every {number % 29 + 1} days by team{number % 13}. It was built in {1950 + number % 70}."
    )
    steps = [
        f"In step {step} the {_PARTS[(number + step) % 8]} of line {number % 17} is "
        f"{_STATES[(number // 8 + step) % 8]} and its reading of {(number * step) % 977} units is noted in the book."
        for step in range(1, 9)
    ]
    return " ".join([first, *steps])
