"""Stage ``guard``: which questions are taken, and by whom they can be answered."""

from __future__ import annotations

import re
import unicodedata
from typing import Protocol

from pipeline.errors import BadQuestion, EmptyKnowledgeBase
from pipeline.injection import find_injections
from pipeline.matching import require_match
from pipeline.settings import Settings
from pipeline.types import AskState, KnowledgeBase

# Overrides of the direction of writing: they show a reader something else than what the model reads.
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_TAGGED_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{2,8}\U000e007f")


class KnowledgeBases(Protocol):
    """The catalogue."""

    def find(self, tenant: str, name: str) -> KnowledgeBase:
        """The knowledge base of that name; raises NotFound."""


class Budget(Protocol):
    """What tenants may spend."""

    def check(self, tenant: str) -> None:
        """Raise BudgetSpent where the tenant may spend no more today."""


def guard(
    state: AskState, *, knowledge_bases: KnowledgeBases, settings: Settings, budget: Budget | None = None
) -> AskState:
    """Refuse what can't be answered, or paid, before it costs anything, and flag what looks like prompt injection."""
    text = check_text(state.question.text, max_chars=settings.max_question_chars)
    kb = knowledge_bases.find(state.question.tenant, state.question.kb)
    require_match(kb, settings)
    if kb.chunks == 0:
        raise EmptyKnowledgeBase(f"Knowledge base {kb.name!r} is empty.")
    if budget is not None:
        budget.check(state.question.tenant)
    question = state.question.model_copy(update={"text": text})
    return state.but(question=question, kb=kb, flags=find_injections(text, "question"))


def check_text(text: str, *, max_chars: int) -> str:
    """The question without white space around it and in composed form (NFC). Raises BadQuestion.

    Any language and emoji are welcome. Refused are: nothing, no letter, digit or symbol at all, more than ``max_chars``
    characters, control characters, characters that turn the direction of writing or are invisible by design, and the
    traces of a wrong decoding.
    """
    question = text.strip()
    if not question:
        raise BadQuestion("The question is empty.", "Ask something.")
    if len(question) > max_chars:
        raise BadQuestion(
            f"The question has {len(question):,} characters; at most {max_chars:,} are taken.",
            "Shorten it, or ingest the long part and ask about it.",
        )
    _refuse_wrong_decoding(question)
    _refuse_hidden(question)
    if all(unicodedata.category(char)[0] in "PZCM" for char in question):
        raise BadQuestion("The question holds no word.", "Ask in words.")
    return unicodedata.normalize("NFC", question)


def _refuse_wrong_decoding(question: str) -> None:
    for position, char in enumerate(question):
        if char == "\ufffd" or "\ud800" <= char <= "\udfff":
            raise BadQuestion(
                f"The question is damaged at character {position + 1}: it was read in the wrong encoding.",
                "Send it as UTF-8.",
            )


def _refuse_hidden(question: str) -> None:
    # The flags of England, Scotland and Wales are spelled with invisible tags, and are emoji like any other.
    for char in _TAGGED_FLAG.sub("", question):
        control = unicodedata.category(char) == "Cc" and char not in "\n\r\t"
        if control or char in _BIDI or "\U000e0000" <= char <= "\U000e007f":
            raise BadQuestion(
                f"The question holds a character that can't be seen, U+{ord(char):04X}.",
                "Remove it; text copied from a terminal or a PDF may hold such characters.",
            )
