"""What became of one question of a batch, and the line of JSON that says so."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from pipeline.errors import BadSettings
from pipeline.types import Answer, Usage, Value

# The first fields of a line, by which it is told apart from anything else and found again without reading all of it.
_HEAD = re.compile(rb'\{\s*"line":\s*(\d+),\s*"key":\s*"([0-9a-f-]{36})",\s*"status":\s*"(done|failed)"')
_BEGIN = b'{"line":'


class Result(Value):
    """One line of results. ``line`` is the question's number in its file, ``id`` its own id, ``key`` see
    :meth:`pipeline.batch.identity.Terms.key_of`; ``question_id`` is '' for a question that was never submitted.

    ``seconds`` is what the answer took, from the first stage's wait to the last stage's end. Of ``answer`` and
    ``error`` (a :class:`pipeline.errors.CeleriacError` as JSON) there is one. ``usage`` is what a failed one
    cost, where that is known.
    """

    line: int
    key: str
    status: Literal["done", "failed"]
    id: str | None = None
    question: str
    kb: str
    extra: dict[str, Any] = {}
    question_id: str = ""
    seconds: float | None = None
    answer: Answer | None = None
    error: dict[str, Any] | None = None
    usage: Usage | None = None

    def to_line(self) -> bytes:
        """The result as a line of JSON."""
        return self.model_dump_json().encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Result:
        """The result back; raises BadSettings where another version wrote it."""
        try:
            return cls.model_validate_json(line)
        except ValidationError:
            raise BadSettings("A result was written by another version.", "Give another --out.") from None


class Head(NamedTuple):
    """What a line of results begins with."""

    number: int
    key: str
    failed: bool


def head_of(line: bytes) -> Head | None:
    """The beginning of a line of results; None for anything else."""
    found = _HEAD.match(line)
    return None if found is None else Head(int(found[1]), found[2].decode(), found[3] == b"failed")


def is_torn(line: bytes) -> bool:
    """Whether this is the beginning of a result whose writer was killed, or whose machine lost power."""
    whole = line.endswith(b"\n")
    line = line.rstrip(b"\0")
    return not whole and (line.startswith(_BEGIN) or _BEGIN.startswith(line))
