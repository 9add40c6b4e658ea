"""Documents from manifest to index, in one process: the same stages, in the same order, as the canvas."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from pipeline.errors import CeleriacError, InternalFault
from pipeline.ingest.chunk import chunk
from pipeline.ingest.embed import embed
from pipeline.ingest.finalize import finalize
from pipeline.ingest.parse import parse
from pipeline.ingest.upsert import upsert
from pipeline.matching import require_match
from pipeline.types import MAX_ATTEMPTS, Batch, ItemStatus, Run, RunItem
from pipeline.wiring import Parts

STAGES = ("parse", "chunk", "embed", "upsert")


def run(run_id: str, parts: Parts) -> None:
    """Carry out a run whose manifest is written, without a broker."""
    while numbers := parts.runs.wave(run_id, parts.settings.wave_batches):
        for number in numbers:
            for name in STAGES:
                run_stage(name, Batch(run_id=run_id, number=number), parts)
    end(run_id, parts)


def run_stage(name: str, batch: Batch, parts: Parts) -> int:
    """One stage of one batch; returns what the stage counts. A run that is over is left alone."""
    run = parts.runs.find(batch.run_id)
    if run.status != "running":
        return 0
    _require_match(run, parts)
    stage, waits_at = _STAGES[name]
    counted = 0
    for items in _tries(parts.runs.items(batch, waits_at), run, parts):
        try:
            counted += stage(items, run, parts)
        except Exception:
            # It ended in good order, so no item has brought down its worker.
            with contextlib.suppress(CeleriacError):
                parts.runs.forgive(run.id, [item.number for item in items])
            raise
    return counted


def _tries(items: Sequence[RunItem], run: Run, parts: Parts) -> Iterator[Sequence[RunItem]]:
    """All items together; but those whose worker died one by one, so that the culprit takes no other with it, and
    those whose worker died too often not again.
    """
    deadly = [item.number for item in items if item.attempts >= MAX_ATTEMPTS]
    cause = InternalFault(f"Given up: the worker died {MAX_ATTEMPTS} times while it had this document.")
    parts.runs.fail(run.id, dict.fromkeys(deadly, cause))
    fresh = [item for item in items if item.attempts == 0]
    suspects = [[item] for item in items if 0 < item.attempts < MAX_ATTEMPTS]
    for group in (fresh, *suspects):
        if group:
            parts.runs.take(run.id, [item.number for item in group])
            yield group


def give_up(batch: Batch, error: CeleriacError, parts: Parts) -> None:
    """End the batch's open items with this cause."""
    numbers = parts.runs.open_numbers(batch.run_id, batch.number)
    parts.runs.fail(batch.run_id, dict.fromkeys(numbers, error))


def end(run_id: str, parts: Parts) -> int:
    """Finalize; returns how many documents were pruned."""
    run = parts.runs.find(run_id)
    _require_match(run, parts)
    return finalize(
        run,
        manifest=parts.runs,
        documents=parts.documents,
        knowledge_bases=parts.knowledge_bases,
        store=parts.store,
        timeout=parts.settings.write_timeout,
    )


def _require_match(run: Run, parts: Parts) -> None:
    """Who sent the run may have other settings than who works on it."""
    require_match(run.kb, embedding_model=parts.settings.embedder_name, store=parts.settings.store_name)


def _parse(items: Sequence[RunItem], run: Run, parts: Parts) -> int:
    return parse(
        items, run, manifest=parts.runs, documents=parts.documents, parsers=parts.parsers, reading=parts.reading
    )


def _chunk(items: Sequence[RunItem], run: Run, parts: Parts) -> int:
    return chunk(items, run, manifest=parts.runs, documents=parts.documents, chunker=parts.chunker)


def _embed(items: Sequence[RunItem], run: Run, parts: Parts) -> int:
    return embed(
        items,
        run,
        manifest=parts.runs,
        chunks=parts.documents,
        cache=parts.embeddings,
        embedder=parts.embedder,
        timeout=parts.settings.embed_timeout,
    )


def _upsert(items: Sequence[RunItem], run: Run, parts: Parts) -> int:
    return upsert(
        items,
        run,
        manifest=parts.runs,
        documents=parts.documents,
        vectors=parts.embeddings,
        store=parts.store,
        timeout=parts.settings.write_timeout,
    )


_STAGES: dict[str, tuple[Callable[[Sequence[RunItem], Run, Parts], int], ItemStatus]] = {
    "parse": (_parse, "queued"),
    "chunk": (_chunk, "parsed"),
    "embed": (_embed, "chunked"),
    "upsert": (_upsert, "embedded"),
}
