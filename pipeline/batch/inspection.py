"""What is looked at before the first question is asked: a batch that can't be read to its end costs nothing."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pipeline.batch.lines import Line
from pipeline.errors import BadSettings


class Inspection(NamedTuple):
    """How many questions there are; the knowledge bases and chat models that lines name, '' for none, with the number
    of the first such line.
    """

    questions: int
    kbs: dict[str, int]
    models: dict[str, int]


def inspect(lines: Iterable[Line], name: str) -> Inspection:
    """Read all questions once; ``lines`` can be iterated again. Raises BadSettings where there are none, or two have
    the same id. Keeps 8 bytes for each id.
    """
    digests, count = array("Q"), 0
    kbs: dict[str, int] = {}
    models: dict[str, int] = {}
    for line in lines:
        count += 1
        if line.id:
            digests.append(_digest(line.id))
        kbs.setdefault(line.kb, line.number)
        models.setdefault(line.options.get("model", ""), line.number)
    if not count:
        raise BadSettings(f"{name} holds no question.")
    _refuse_twice(lines, _repeated(digests), name)
    return Inspection(count, kbs, models)


def _repeated(digests: array[int]) -> set[int]:
    found = np.sort(np.array(digests, dtype=np.uint64))
    return {int(digest) for digest in found[1:][found[1:] == found[:-1]]}


def _refuse_twice(lines: Iterable[Line], suspects: set[int], name: str) -> None:
    """Two ids may have one digest, so the ids themselves decide."""
    first: dict[str, int] = {}
    for line in lines if suspects else ():
        if line.id and _digest(line.id) in suspects and first.setdefault(line.id, line.number) != line.number:
            before = first[line.id]
            raise BadSettings(
                f"{name}, line {line.number}: the id {line.id!r} is that of line {before} too.",
                "Each question needs an id of its own.",
            )


def _digest(own_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(own_id.encode(), digest_size=8).digest())
