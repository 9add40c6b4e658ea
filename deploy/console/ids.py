"""Ids as people type them: whole, or the first characters that a table shows."""

from __future__ import annotations

import re
import shlex
import uuid
from collections.abc import Sequence
from typing import Annotated

import typer

from pipeline.errors import BadSettings, NotFound
from pipeline.wiring import Parts

QuestionId = Annotated[
    str, typer.Argument(metavar="ID", help="A question's id, or 4 or more characters that it begins with.")
]
DEFAULT_TENANT = "default"
SHOWN = 8
"""Characters of an id in a table."""
_SHORTEST = 4
_LONGEST = 36


def find_question(parts: Parts, text: str) -> str:
    """The id of a question from itself or its beginning; raises NotFound, or BadSettings where it fits several."""
    hint = "`manage.py ask --json` and `manage.py ask --detach` print ids, `manage.py dead list` those that failed."
    if not _is_beginning(text):
        raise NotFound(f"{text[:60]!r} is no id of a question.", hint)
    try:
        return str(uuid.UUID(text))
    except ValueError:
        found = parts.questions.matching(text[:_LONGEST])
    if not found:
        raise NotFound(f"No question begins with {text!r}.", hint)
    return _only(found, "questions", text)


def find_conversation(parts: Parts, text: str, tenant: str) -> str:
    """The id of a conversation from its beginning; anything else as it is, for whoever looks for it to refuse. Raises
    BadSettings where it fits several.
    """
    found = parts.conversations.matching(tenant, text) if _is_beginning(text) and len(text) < _LONGEST else []
    return _only(found, "conversations", text) if found else text


def of_tenant(tenant: str) -> str:
    """What a command that is shown needs beside the rest to be about this tenant."""
    return "" if tenant == DEFAULT_TENANT else f" --tenant {shlex.quote(tenant)}"


def _is_beginning(text: str) -> bool:
    return len(text) >= _SHORTEST and bool(re.fullmatch(r"[0-9a-fA-F-]{1,36}", text) and text.strip("-"))


def _only(found: Sequence[str], what: str, text: str) -> str:
    if len(found) > 1:
        raise BadSettings(f"Several {what} begin with {text!r}.", f"Give more of it: {found[0]} or {found[1]}.")
    return found[0]
