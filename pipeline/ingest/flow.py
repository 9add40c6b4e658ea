"""Documents from manifest to index, in one process: the same stages, in the same order, as the canvas."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence

from pipeline.errors import CeleriacError, InternalFault
from pipeline.ingest.chunk import chunk
from pipeline.ingest.embed import embed
from pipeline.ingest.finalize import finalize
from pipeline.ingest.manifest import write_manifest
from pipeline.ingest.parse import parse
from pipeline.ingest.reembed import Listing, at_live_generation, complete, lacking_keys, reindex
from pipeline.ingest.repair import catch_up
from pipeline.ingest.upsert import upsert
from pipeline.ingest.writing import VectorsMissing
from pipeline.matching import require_match
from pipeline.prices import cost
from pipeline.types import Batch, BatchOutcome, IndexRef, IngestStage, KnowledgeBase, Lease, Run, RunItem
from pipeline.wiring import Parts

STAGES: tuple[IngestStage, ...] = ("parse", "chunk", "embed", "upsert")

# There a document can take its worker down by itself; elsewhere it takes several deaths to suspect one.
_DANGEROUS = ("parse", "chunk")


def run(run_id: str, parts: Parts) -> None:
    """Carry out a run whose manifest is written, without a broker."""
    size = parts.settings.wave_batches
    [(lane, step)] = parts.batches.open_lanes(run_id, lanes=1, size=size)
    while (wave := parts.batches.next_wave(run_id, lane, step, size)) is not None and not wave.last:
        for number, stage in wave.batches:
            for name in stages_from(stage):
                run_stage(name, Batch(run_id=run_id, number=number), parts)
        step += 1
    end(run_id, parts)


def stages_from(stage: IngestStage) -> tuple[IngestStage, ...]:
    """The stages that a batch at ``stage`` still has to go through."""
    return STAGES[STAGES.index(stage) :]


def run_stage(name: IngestStage, batch: Batch, parts: Parts, *, attempt: int = 1) -> None:
    """One stage of one batch, under a lease. A batch that is past the stage, or whose run is over, is left alone.

    Raises Busy while another worker is at it, and Cancelled where another has taken it over meanwhile.
    """
    lease = parts.batches.claim(batch, name, holder=str(uuid.uuid4()))
    if lease is None:
        return
    with parts.leases.keeping(lease.holder):
        try:
            _work(lease, parts, attempt)
        except Exception:
            # It ended in good order. Where not even that can be said, the lease runs out by itself.
            with contextlib.suppress(CeleriacError):
                parts.batches.release(lease)
            raise


def give_up(name: IngestStage, batch: Batch, error: CeleriacError, parts: Parts, *, attempt: int = 1) -> None:
    """End the batch's open items with this cause."""
    parts.batches.give_up(batch, name, error, attempt=attempt)


def end(run_id: str, parts: Parts) -> int:
    """Finalize; returns how many documents were pruned."""
    run = parts.runs.find(run_id)
    require_match(run.kb, parts.settings)  # who sent the run may have other settings than who works on it
    if run.kind == "reembed":
        complete(run, ledger=parts.runs, indexes=parts.indexes, catch_up=lambda: _catch_up(run, parts))
        return 0
    return finalize(
        run,
        manifest=parts.runs,
        documents=parts.documents,
        knowledge_bases=parts.knowledge_bases,
        store=parts.store,
        timeout=parts.settings.write_timeout,
    )


def begin_reembed(run_id: str, target: IndexRef, parts: Parts) -> Iterator[int]:
    """Create the run that builds this index and write its manifest; yields how many documents are in it after each
    batch. Of an index that is there already only what it lacks is built.
    """
    timeout = parts.settings.write_timeout
    is_new = parts.indexes.begin(run_id, target)
    kb = parts.runs.find(run_id).kb
    lacking = None if is_new else lacking_keys(kb, target, truth=parts.inspection, store=parts.store, timeout=timeout)
    listing = Listing(parts.documents, kb.id, lacking, chunk_tokens=parts.settings.chunk_tokens)
    yield from write_manifest(
        run_id,
        listing,
        ledger=parts.runs,
        max_documents=parts.settings.batch_documents,
        max_tokens=parts.settings.batch_tokens,
        weigh=listing.weigh,
    )


def _work(lease: Lease, parts: Parts, attempt: int) -> None:
    run = parts.runs.find(lease.batch.run_id)
    require_match(run.kb, parts.settings)
    stage, following = (_STAGES if run.kind == "ingest" else _REEMBED_STAGES)[lease.stage]
    items = parts.batches.items(lease)
    if not _is_suspect(lease, parts):
        parts.batches.record(lease, stage(items, run, parts), attempt=attempt, next_stage=following)
        return
    chunks = 0
    for item in _spared(items, lease, parts, attempt):
        parts.batches.alone(lease, item.number)
        outcome = stage([item], run, parts)
        # Whoever takes over cuts all of them again: counted at the end, they count once.
        chunks += outcome.chunks
        parts.batches.record(lease, outcome.model_copy(update={"chunks": 0}), attempt=attempt)
    parts.batches.record(lease, BatchOutcome(chunks=chunks), next_stage=following)


def _is_suspect(lease: Lease, parts: Parts) -> bool:
    """Whether a document may have taken down the holders before: then each is worked on alone, so that the culprit
    takes no other with it, and is known by its name.
    """
    return lease.deaths >= (1 if lease.stage in _DANGEROUS else parts.settings.max_crashes)


def _spared(items: Sequence[RunItem], lease: Lease, parts: Parts, attempt: int) -> list[RunItem]:
    """The items to try one by one, the least suspect first; those over which too many workers died fail."""
    most = parts.settings.max_crashes
    deadly = [item.number for item in items if item.crashes >= most]
    last = f" (the last one: {lease.crash})" if lease.crash else ""
    cause = InternalFault(f"Given up: {most} workers died while they had only this document{last}.")
    parts.batches.record(lease, BatchOutcome(failed=dict.fromkeys(deadly, cause)), attempt=attempt)
    # What an earlier holder has parsed alone is parsed.
    left = [item for item in items if lease.stage != "parse" or item.generation is None]
    return sorted((item for item in left if item.crashes < most), key=lambda item: item.crashes)


def _parse(items: Sequence[RunItem], run: Run, parts: Parts) -> BatchOutcome:
    return parse(
        items,
        run,
        documents=parts.documents,
        parsers=parts.parsers,
        remotes=parts.remotes,
        reading=parts.reading,
        bound=parts.bound_documents,
    )


def _chunk(items: Sequence[RunItem], run: Run, parts: Parts) -> BatchOutcome:
    return chunk(
        items,
        run,
        documents=parts.documents,
        chunker=parts.chunker,
        parent_tokens=parts.settings.parent_tokens,
        bound=parts.bound_documents,
    )


def _embed(items: Sequence[RunItem], run: Run, parts: Parts) -> BatchOutcome:
    return BatchOutcome(embedded=sum(_embed_for(index, items, run, parts) for index in run.kb.indexes))


def _embed_for(index: IndexRef, items: Sequence[RunItem], run: Run, parts: Parts) -> int:
    kb = run.kb.served_from(index)
    outcome = embed(
        items,
        run.model_copy(update={"kb": kb}),
        chunks=parts.documents,
        cache=parts.embeddings,
        embedder=parts.embedder_for(kb),
        timeout=parts.settings.embed_timeout,
        go_on=lambda: _is_running(run.id, parts),
        paid=lambda tokens: _pay(kb, tokens, parts),
    )
    return outcome.embedded


def _pay(kb: KnowledgeBase, tokens: int, parts: Parts) -> None:
    if parts.budget is not None and tokens:
        usd = cost(kb.embedding_model, tokens, 0, parts.settings.prices)
        parts.budget.spend(kb.tenant, usd, tokens, on_record=False)


def _upsert(items: Sequence[RunItem], run: Run, parts: Parts) -> BatchOutcome:
    # The knowledge base may have got another index since the batch was embedded.
    outcome = _embedding_first_if_needed(lambda: _write(items, run, parts), lambda: _embed(items, run, parts))
    if not _is_running(run.id, parts):
        parts.knowledge_bases.refresh_size(run.kb.id)  # a cancelled run has no finalize that would
    return outcome


def _write(items: Sequence[RunItem], run: Run, parts: Parts) -> BatchOutcome:
    return upsert(
        items,
        run,
        documents=parts.documents,
        vectors=parts.embeddings,
        store=parts.store,
        timeout=parts.settings.write_timeout,
    )


def _reembed(items: Sequence[RunItem], run: Run, parts: Parts) -> BatchOutcome:
    found, gone = at_live_generation(items, run, parts.documents)
    embedded = _embed_for(run.target, found, run, parts)
    return BatchOutcome(embedded=embedded, unchanged=tuple(item.number for item in gone))


def _reindex(items: Sequence[RunItem], run: Run, parts: Parts) -> BatchOutcome:
    def write() -> BatchOutcome:
        return reindex(
            items,
            run,
            documents=parts.documents,
            vectors=parts.embeddings,
            store=parts.store,
            timeout=parts.settings.write_timeout,
            is_wanted=lambda: parts.runs.find(run.id).kb.building == run.target,
        )

    # A document may have got another generation since the batch was embedded.
    return _embedding_first_if_needed(write, lambda: _reembed(items, run, parts))


def _embedding_first_if_needed(
    write: Callable[[], BatchOutcome], embed_again: Callable[[], BatchOutcome]
) -> BatchOutcome:
    """What ``write`` makes; where it lacks vectors, ``embed_again`` comes before it, and counts."""
    try:
        return write()
    except VectorsMissing:
        embedded = embed_again().embedded
        return write().model_copy(update={"embedded": embedded})


def _catch_up(run: Run, parts: Parts) -> None:
    kb = run.kb.served_from(run.target)
    catch_up(
        kb,
        ledger=parts.inspection,
        store=parts.store,
        cache=parts.embeddings,
        embedder=parts.embedder_for(kb),
        timeout=parts.settings.write_timeout,
        embed_timeout=parts.settings.embed_timeout,
    )


def _is_running(run_id: str, parts: Parts) -> bool:
    return parts.runs.find(run_id).status == "running"


# By name: the stage, and what comes after it.
_STAGES: dict[IngestStage, tuple[Callable[[Sequence[RunItem], Run, Parts], BatchOutcome], str]] = {
    "parse": (_parse, "chunk"),
    "chunk": (_chunk, "embed"),
    "embed": (_embed, "upsert"),
    "upsert": (_upsert, "over"),
}
_REEMBED_STAGES: dict[IngestStage, tuple[Callable[[Sequence[RunItem], Run, Parts], BatchOutcome], str]] = {
    "embed": (_reembed, "upsert"),
    "upsert": (_reindex, "over"),
}
