"""Ids that a batch finds again: the same line of the same batch is the same question, whoever asks it and when."""

from __future__ import annotations

import json
import uuid
from typing import Any

from pipeline.batch.lines import Line
from pipeline.types import AskOptions, Value

_NAMESPACE = uuid.UUID("5b0d3d2e-6a52-5f0c-9a0e-6d1b5ad2c7f4")


class Terms(Value):
    """What holds for every question of a batch whose line doesn't say otherwise; ``timeout`` is in seconds."""

    tenant: str = "default"
    kb: str = "default"
    options: AskOptions = AskOptions()
    timeout: float | None = None

    def kb_of(self, line: Line) -> str:
        """The knowledge base that this line asks."""
        return line.kb or self.kb

    def options_of(self, line: Line) -> AskOptions:
        """The options of this line."""
        return self.options.model_copy(update=dict(line.options)) if line.options else self.options

    def key_of(self, line: Line) -> str:
        """What makes a question of a batch the same one: its own id, or else its line, its text, whom it asks, and
        how. By its key a result in a file is known; a changed text or option is another question.
        """
        who: str | int = line.id or line.number
        asked: list[Any] = [self.tenant, self.kb_of(line), who, line.text, self.options_of(line).encode()]
        return str(uuid.uuid5(_NAMESPACE, json.dumps(asked, sort_keys=True)))


def question_id(batch_id: str, key: str, attempt: int) -> str:
    """The id of the question as this batch asks it for the ``attempt``-th time, from 1."""
    return str(uuid.uuid5(uuid.UUID(batch_id), f"{key}/{attempt}"))
