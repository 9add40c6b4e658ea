"""Documents from manifest to index, in one process: the same stages, in the same order, as the canvas."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.errors import CeleriacError
from pipeline.ingest.chunk import chunk
from pipeline.ingest.embed import embed
from pipeline.ingest.finalize import finalize
from pipeline.ingest.parse import parse
from pipeline.ingest.upsert import upsert
from pipeline.matching import require_match
from pipeline.types import Batch, Run
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
    return _STAGES[name](batch, run, parts)


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


def _parse(batch: Batch, run: Run, parts: Parts) -> int:
    return parse(
        batch, run, manifest=parts.runs, documents=parts.documents, parsers=parts.parsers, reading=parts.reading
    )


def _chunk(batch: Batch, run: Run, parts: Parts) -> int:
    return chunk(batch, run, manifest=parts.runs, documents=parts.documents, chunker=parts.chunker)


def _embed(batch: Batch, run: Run, parts: Parts) -> int:
    return embed(
        batch,
        run,
        manifest=parts.runs,
        chunks=parts.documents,
        cache=parts.embeddings,
        embedder=parts.embedder,
        timeout=parts.settings.embed_timeout,
    )


def _upsert(batch: Batch, run: Run, parts: Parts) -> int:
    return upsert(
        batch,
        run,
        manifest=parts.runs,
        documents=parts.documents,
        vectors=parts.embeddings,
        store=parts.store,
        timeout=parts.settings.write_timeout,
    )


_STAGES: dict[str, Callable[[Batch, Run, Parts], int]] = {
    "parse": _parse,
    "chunk": _chunk,
    "embed": _embed,
    "upsert": _upsert,
}
