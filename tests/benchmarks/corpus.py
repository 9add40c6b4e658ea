"""The documents of the benchmarks, made from a collection of ``../shared/data``; the same ones every time.

A collection is repeated under new ids. Each repetition has a number, ``copy``, and every title begins with it
("Copy 7: …"). A chunk's title is part of the text that is embedded, so no text of one copy is ever found in the
embedding cache because of another, while bodies, and so the places where they are cut, stay those of real documents.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

from pipeline.adapters.chunker import TokenChunker
from pipeline.types import ParsedDocument
from tests.command_line import ROOT

COLLECTION = ROOT.parent / "shared" / "data" / "scifact" / "corpus.jsonl"
CHUNK_TOKENS = 300
_SHORT = 300


class Corpus(NamedTuple):
    """A file of JSON lines, and what is in it."""

    path: Path
    documents: int
    passages: int


def write_passages(path: Path, passages: int, *, copy: int) -> Corpus:
    """Whole abstracts until they make ``passages`` chunks at least; copies are numbered from ``copy``."""
    documents = found = 0
    sizes = _sizes()
    with path.open("w", encoding="utf-8") as lines:
        while found < passages:
            place = documents % len(sizes)
            lines.write(_line(_records()[place], copy + documents // len(sizes)))
            documents, found = documents + 1, found + sizes[place]
    return Corpus(path, documents, found)


def write_short(path: Path, documents: int, *, copy: int) -> Corpus:
    """``documents`` titles with the beginning of their abstract: a passage each."""
    with path.open("w", encoding="utf-8") as lines:
        for record, number in islice(_repeated(copy), documents):
            lines.write(_line({**record, "text": record["text"][:_SHORT]}, number))
    return Corpus(path, documents, documents)


def _repeated(copy: int) -> Iterator[tuple[dict[str, str], int]]:
    for number in count(copy):
        for record in _records():
            yield record, number


def _line(record: dict[str, str], copy: int) -> str:
    changed = {"id": f"{record['_id']}-{copy}", "title": f"Copy {copy}: {record['title']}", "text": record["text"]}
    return json.dumps(changed, ensure_ascii=False) + "\n"


@cache
def _records() -> list[dict[str, str]]:
    if not COLLECTION.exists():
        sys.exit(f"No collection: {COLLECTION} is missing.")
    return [json.loads(line) for line in COLLECTION.read_text(encoding="utf-8").splitlines()]


@cache
def _sizes() -> list[int]:
    """Chunks of each record; its title does not change them."""
    chunker = TokenChunker(CHUNK_TOKENS)
    return [len(chunker.chunk(ParsedDocument(text=record["text"]))) for record in _records()]
