"""A run's manifest: every source a row, in batches, before any message is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from pipeline.ingest.origins import decode_path, is_remote
from pipeline.types import Source

# About four bytes of English make a token; the other formats carry more than their text.
_BYTES_PER_TOKEN = {"html": 12, "pdf": 40, "docx": 20, "pptx": 100, "xlsx": 10}
# Its size isn't known, and it takes time: a batch holds few of them, so that workers share them.
_REMOTE_TOKENS = 25_000


class Ledger(Protocol):
    """Where manifests are kept."""

    def add(self, run_id: str, batch: int, sources: Iterable[tuple[int, Source]]) -> int:
        """Add a batch of numbered sources."""


def estimate_tokens(source: Source) -> int:
    """About how many tokens a source has, from its size."""
    if is_remote(source.file):
        return _REMOTE_TOKENS
    return _size(source) // _BYTES_PER_TOKEN.get(source.format, 4)


def write_manifest(
    run_id: str,
    sources: Iterable[Source],
    *,
    ledger: Ledger,
    max_documents: int,
    max_tokens: int,
    weigh: Callable[[Source], int] = estimate_tokens,
) -> Iterator[int]:
    """Stream sources into the manifest, and yield how many are in it after each batch.

    A batch ends before it would hold more than ``max_documents`` sources or ``max_tokens`` tokens, which
    ``weigh`` tells; a larger source is a batch of its own.
    """
    batch: list[tuple[int, Source]] = []
    number = batches = size = 0
    for source in sources:
        weight = weigh(source)
        if batch and (len(batch) >= max_documents or size + weight > max_tokens):
            ledger.add(run_id, batches, batch)
            batch, size, batches = [], 0, batches + 1
            yield number
        batch.append((number, source))
        number, size = number + 1, size + weight
    if batch:
        ledger.add(run_id, batches, batch)
        yield number


def _size(source: Source) -> int:
    if source.length is not None:
        return source.length
    try:
        return decode_path(source.file).stat().st_size
    except OSError:
        return 0  # parsing tells what is wrong with it
