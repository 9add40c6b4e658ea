"""What two questions must have in common for the one to be given what the other was.

Three results are kept, and each key holds the one before it: the vector of the question, the passages that were
retrieved, the answer. A key stands for the words, their owner, and every option and setting that shapes the result.
What of the knowledge base shapes it is its *revision*, which stands beside the key wherever something is kept.
"""

from __future__ import annotations

import json
import unicodedata
from hashlib import blake2b
from typing import Any, NamedTuple

from pipeline import prompts
from pipeline.settings import Settings
from pipeline.types import AskOptions, Question

_FORMAT = 1
"""To be raised where the same words, options and settings come to give another result."""

OPTIONS_OF_RETRIEVAL = ("top_k", "min_score", "alpha", "fusion", "parents")
OPTIONS_OF_ANSWER = ("model", "reasoning_effort", "verbosity")
SETTINGS_OF_VECTOR = ("openai_base_url",)
SETTINGS_OF_RETRIEVAL = (
    "store_name",
    "weaviate_url",
    "candidates",
    "alpha",
    "min_score",
    "keyword_language",
    "rerank_url",
    "rerank_model",
)
SETTINGS_OF_ANSWER = ("generator_name", "reasoning_effort", "verbosity")


class Keys(NamedTuple):
    """Keys of 32 hexadecimal digits."""

    vector: str
    retrieval: str
    answer: str


class KeyMaker:
    """Makes keys of questions as long as the settings stand."""

    def __init__(self, settings: Settings) -> None:
        """Reads the settings once."""
        self._model = settings.generator_name
        self._vector = _digest(_FORMAT, _values(settings, SETTINGS_OF_VECTOR))
        self._retrieval = _digest(_values(settings, SETTINGS_OF_RETRIEVAL))
        told = (prompts.SYSTEM.template, prompts.USER.template, prompts.BRIEF, prompts.NOT_FOUND_TEXT)
        self._answer = _digest(_values(settings, SETTINGS_OF_ANSWER), told)

    def keys(self, question: Question) -> Keys:
        """Case and punctuation count, since answers depend on them; the amount of white space does not."""
        options = question.options.model_copy(update={"model": question.options.model or self._model})
        words = " ".join(unicodedata.normalize("NFC", question.text).split())
        vector = _digest(self._vector, question.tenant, words)
        retrieval = _digest(self._retrieval, vector, _values(options, OPTIONS_OF_RETRIEVAL))
        answer = _digest(self._answer, retrieval, _values(options, OPTIONS_OF_ANSWER))
        return Keys(vector, retrieval, answer)


def _values(source: Settings | AskOptions, names: tuple[str, ...]) -> list[Any]:
    return [getattr(source, name) for name in names]


def _digest(*parts: Any) -> str:
    return blake2b(json.dumps(parts, separators=(",", ":")).encode(), digest_size=16).hexdigest()
