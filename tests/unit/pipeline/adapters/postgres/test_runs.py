"""Runs and their manifests: listing, progress, failures, ends, and going on."""

from __future__ import annotations

import uuid

import pytest

from pipeline.errors import BadQuestion, CeleriacError, Conflict, NotFound, ParseFailed, RateLimited
from pipeline.ingest.flow import STAGES
from pipeline.types import (
    BatchOutcome,
    IngestStage,
    KnowledgeBase,
    RecordFields,
    RunItem,
    RunOptions,
    RunStatus,
    Source,
)
from pipeline.wiring import Parts
from tests.installation import claimed, counts, died, execute, listed, new_kb, scalars

AWKWARD = '/data/Größe 🧨 "quoted" \\x0a %s.txt'


def source(key: str) -> Source:
    return Source(key=key, origin=key, format="json", offset=3, length=9, columns=("a", 'b"c'))


def items(parts: Parts, run_id: str, batch: int = 0) -> list[RunItem]:
    lease = claimed(parts, run_id, batch=batch)
    found = parts.batches.items(lease)
    parts.batches.release(lease)
    return found


def fail(parts: Parts, run_id: str, *numbers: int, error: CeleriacError | None = None, batch: int = 0) -> None:
    lease = claimed(parts, run_id, batch=batch)
    parts.batches.record(lease, BatchOutcome(failed=dict.fromkeys(numbers, error or ParseFailed("It broke."))))
    parts.batches.release(lease)


def sent(parts: Parts, run_id: str) -> str:
    parts.batches.open_lanes(run_id, lanes=1, size=8)
    return run_id


def pass_through(parts: Parts, run_id: str, *stages: IngestStage, batch: int = 0) -> None:
    """These stages, without an event; the last one ends what is open."""
    for stage in stages:
        lease = claimed(parts, run_id, stage, batch=batch)
        done = tuple(item.number for item in parts.batches.items(lease)) if stage == "upsert" else ()
        following = "over" if stage == "upsert" else STAGES[STAGES.index(stage) + 1]
        parts.batches.record(lease, BatchOutcome(done=done), next_stage=following)


# --------------------------------------------------------------------------- manifests


def test_a_run_is_read_back_with_its_knowledge_base_and_options(parts: Parts, kb: KnowledgeBase) -> None:
    options = RunOptions(roots=("/a", AWKWARD), fields=RecordFields(text=("t", "u"), id="i"), prune=True)
    run_id = str(uuid.uuid4())
    parts.runs.create(run_id, kb.id, options)
    run = parts.runs.find(run_id)
    assert (run.kb, run.options, run.status, run.kind) == (kb, options, "discovering", "ingest")
    assert (run.pruned, run.error) == (0, None)


def test_an_unknown_run_is_not_there(parts: Parts) -> None:
    unknown = str(uuid.uuid4())
    for ask in (parts.runs.find, parts.runs.reopen, parts.runs.requeue):
        with pytest.raises(NotFound, match="There is no run"):
            ask(unknown)
    assert not parts.runs.cancel(unknown)


def test_sources_are_read_back_as_they_were_in_the_order_of_their_numbers(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb)
    given = [(2, source("c")), (0, source(AWKWARD)), (1, source("b"))]
    assert parts.runs.add(run_id, 5, given) == 3
    assert [(item.number, item.source) for item in items(parts, run_id, 5)] == sorted(given, key=lambda pair: pair[0])


def test_of_two_sources_with_one_key_the_last_counts_and_they_count_once(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb)
    first, last = source("k"), source("k").model_copy(update={"offset": 77})
    assert parts.runs.add(run_id, 0, [(0, first), (1, source("other")), (2, last)]) == 2
    assert {item.key: item.source for item in items(parts, run_id)} == {"k": last, "other": source("other")}
    assert parts.runs.add(run_id, 1, [(3, first), (4, source("new"))]) == 1
    assert parts.runs.add(run_id, 2, [(5, last), (6, source("new"))]) == 0
    assert {item.key: item.source for item in items(parts, run_id)} == {"k": last, "other": source("other")}
    assert [item.number for item in items(parts, run_id, 1)] == [4]
    assert scalars(parts, "SELECT number FROM run_batches WHERE run_id = :id", id=run_id) == [0, 1], (
        "a batch without a source of its own is none"
    )
    assert counts(parts, run_id) == {"parse": 3}


def test_a_batch_is_over_though_some_of_its_keys_lie_in_another(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 2)
    parts.runs.add(run_id, 1, [(2, source("k0")), (3, source("k1")), (4, source("k4"))])
    pass_through(parts, run_id, *STAGES, batch=1)
    assert counts(parts, run_id) == {"parse": 2, "done": 1}
    pass_through(parts, run_id, *STAGES, batch=0)
    assert counts(parts, run_id) == {"done": 3}


def test_the_rows_of_a_manifest_are_small(parts: Parts, kb: KnowledgeBase) -> None:
    """A million records make a million rows: defaults are left out."""
    run_id = listed(parts, kb)
    parts.runs.add(run_id, 0, [(0, Source(key="k", origin="k", format="text"))])
    (row,) = scalars(parts, "SELECT source::text FROM run_items WHERE run_id = :id", id=run_id)
    assert len(row) < 60


def test_a_run_whose_listing_falls_silent_is_abandoned(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 1, start=False)

    def hush() -> None:
        execute(parts, "UPDATE runs SET heartbeat_at = now() - interval '60 s' WHERE id = :id", id=run_id)

    assert run_id not in parts.runs.abandoned(30)
    hush()
    assert run_id in parts.runs.abandoned(30)
    parts.runs.add(run_id, 1, [(1, source("k1"))])
    assert run_id not in parts.runs.abandoned(30)
    hush()
    parts.runs.beat([run_id])
    assert run_id not in parts.runs.abandoned(30)
    hush()
    assert parts.runs.start(run_id)
    assert run_id not in parts.runs.abandoned(30)


def test_a_run_starts_once_and_not_after_its_end(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 1, start=False)
    assert [parts.runs.start(run_id), parts.runs.start(run_id)] == [True, False]
    other = listed(parts, kb, 1, start=False)
    assert parts.runs.cancel(other)
    assert not parts.runs.start(other)


def test_a_run_that_was_started_and_never_sent_is_found(parts: Parts, kb: KnowledgeBase) -> None:
    """The program that started it may die before it has sent a message: no one else would ever hear of the run."""
    run_id = listed(parts, kb, 1, 1)
    execute(parts, "UPDATE run_lanes SET sent_at = now() - interval '1 hour' WHERE run_id = :id", id=run_id)
    assert (run_id, 0) in parts.batches.silent_lanes(30)
    step = parts.batches.resend(run_id, 0)
    assert step is not None
    wave = parts.batches.next_wave(run_id, 0, step, 8)
    assert wave is not None
    assert [number for number, _ in wave.batches] == [0, 1]


# --------------------------------------------------------------------------- failures


def test_failures_tell_all_that_is_known(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 3)
    limited = RateLimited("Too many 🧨.", "Slow down.", {"status": 429, "upstream": "openai"})
    lease = claimed(parts, run_id)
    parts.batches.record(lease, BatchOutcome(failed={1: limited}), attempt=4)
    (failure,) = parts.runs.failures(run_id)
    assert (failure.number, failure.document, failure.stage, failure.attempt) == (1, "k1", "parse", 4)
    assert (failure.code, failure.message, failure.hint) == ("RateLimited", "Too many 🧨.", "Slow down.")
    assert (failure.http_status, failure.retryable) == (429, True)


def test_failures_come_in_the_order_they_happened_page_by_page(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 5)
    for number in (3, 1, 4):
        fail(parts, run_id, number)
    first = parts.runs.failures(run_id, limit=2)
    assert [failure.number for failure in first] == [3, 1]
    rest = parts.runs.failures(run_id, after=first[-1].failed_at, limit=2)
    assert [failure.number for failure in rest] == [4]
    assert parts.runs.failures(run_id, after=rest[-1].failed_at) == []
    assert parts.runs.progress(run_id).failed == 3


def test_of_failures_written_at_once_a_page_ends_between_two_and_none_is_missed(
    parts: Parts, kb: KnowledgeBase
) -> None:
    run_id = listed(parts, kb, 40)
    fail(parts, run_id, *range(40))
    seen: list[int] = []
    after = None
    while page := parts.runs.failures(run_id, after=after, limit=7):
        seen += [failure.number for failure in page]
        after = page[-1].failed_at
    assert sorted(seen) == list(range(40))


# --------------------------------------------------------------------------- the end


@pytest.mark.parametrize("status", ["failed", "cancelled"])
@pytest.mark.parametrize("later", ["done", "failed", "cancelled"])
def test_the_first_end_is_final(status: RunStatus, later: RunStatus, parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 1)
    assert parts.runs.finish(run_id, status)
    assert not parts.runs.finish(run_id, later, error=BadQuestion("Too late."))
    assert not parts.runs.cancel(run_id)
    run = parts.runs.find(run_id)
    assert (run.status, run.error) == (status, None)
    assert counts(parts, run_id) == {"parse": 1}, "it may go on"


def test_a_run_with_open_sources_is_never_done(parts: Parts, kb: KnowledgeBase) -> None:
    """The message of an end may be late, or come twice: the run may have been given new work since."""
    run_id = listed(parts, kb, 1)
    assert not parts.runs.finish(run_id, "done")
    assert parts.runs.find(run_id).status == "running"
    pass_through(parts, run_id, *STAGES)
    assert parts.runs.finish(run_id, "done")
    assert parts.runs.find(run_id).status == "done"


def test_a_failed_run_says_why(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb)
    parts.runs.finish(run_id, "failed", error=NotFound("It isn't there.", "Look elsewhere."))
    error = parts.runs.find(run_id).error
    assert error is not None
    assert (error["code"], error["message"], error["hint"]) == ("NotFound", "It isn't there.", "Look elsewhere.")


def test_all_open_runs_of_a_knowledge_base_are_cancelled_and_no_other(parts: Parts, kb: KnowledgeBase) -> None:
    running, listing, ended = listed(parts, kb, 1), listed(parts, kb, 1, start=False), listed(parts, kb)
    other = listed(parts, new_kb(parts), 1)
    parts.runs.finish(ended, "failed")
    parts.runs.cancel_all(kb.id)
    found = [parts.runs.find(run_id).status for run_id in (running, listing, ended, other)]
    assert found == ["cancelled", "cancelled", "failed", "running"]


# --------------------------------------------------------------------------- going on


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("ended", ["cancelled", "failed"])
def test_a_run_that_was_ended_goes_on_where_each_batch_was(
    ended: RunStatus, stage: IngestStage, parts: Parts, kb: KnowledgeBase
) -> None:
    run_id = sent(parts, listed(parts, kb, 2, 1))
    pass_through(parts, run_id, *STAGES[: STAGES.index(stage)])
    parts.runs.finish(run_id, ended, error=NotFound("Why."))
    assert parts.runs.reopen(run_id) == 3
    run = parts.runs.find(run_id)
    assert (run.status, run.error) == ("running", None)
    pass_through(parts, run_id, *STAGES[STAGES.index(stage) :])
    pass_through(parts, run_id, *STAGES, batch=1)
    assert counts(parts, run_id) == {"done": 3}
    assert parts.runs.finish(run_id, "done")


def test_a_run_without_an_open_source_can_not_go_on(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = sent(parts, listed(parts, kb, 1))
    with pytest.raises(Conflict, match="under way"):
        parts.runs.reopen(run_id)
    with pytest.raises(Conflict, match="under way"):
        parts.runs.requeue(run_id)
    pass_through(parts, run_id, *STAGES)
    parts.runs.finish(run_id, "done")
    with pytest.raises(Conflict, match="nothing left") as caught:
        parts.runs.reopen(run_id)
    assert "retry" in caught.value.hint
    with pytest.raises(Conflict, match="no failed source"):
        parts.runs.requeue(run_id)
    assert parts.runs.find(run_id).status == "done"


def test_a_run_whose_listing_broke_off_can_not_go_on(parts: Parts, kb: KnowledgeBase) -> None:
    """It would end as done without the sources that were never listed, and prune them."""
    run_id = listed(parts, kb, 2, start=False)
    parts.runs.finish(run_id, "failed")
    for go_on in (parts.runs.reopen, parts.runs.requeue):
        with pytest.raises(Conflict, match="never all listed"):
            go_on(run_id)


def test_only_what_failed_is_queued_again(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = sent(parts, listed(parts, kb, 3, 2, 2))
    fail(parts, run_id, 1)
    fail(parts, run_id, 3, 4, batch=1)
    for batch in (0, 2):
        pass_through(parts, run_id, *STAGES, batch=batch)
    parts.batches.record(claimed(parts, run_id, batch=1), BatchOutcome(), next_stage="chunk")
    parts.runs.finish(run_id, "done")
    assert counts(parts, run_id) == {"done": 4, "failed": 3}
    assert parts.runs.requeue(run_id) == 3
    assert counts(parts, run_id) == {"done": 4, "parse": 3}
    assert (parts.runs.find(run_id).status, parts.runs.failures(run_id)) == ("running", [])
    ((lane, step),) = parts.batches.open_lanes(run_id, lanes=4, size=8)
    wave = parts.batches.next_wave(run_id, lane, step, 8)
    assert wave is not None
    assert wave.batches == ((0, "parse"), (1, "parse"))
    assert [item.number for item in items(parts, run_id, 0)] == [1]
    for batch in (0, 1):
        pass_through(parts, run_id, *STAGES, batch=batch)
    assert counts(parts, run_id) == {"done": 7}


@pytest.mark.parametrize("stage", STAGES)
def test_what_failed_in_a_batch_that_is_not_over_is_queued_with_what_is_open(
    stage: IngestStage, parts: Parts, kb: KnowledgeBase
) -> None:
    run_id = sent(parts, listed(parts, kb, 3))
    fail(parts, run_id, 1)
    pass_through(parts, run_id, *STAGES[: STAGES.index(stage)])
    parts.runs.cancel(run_id)
    assert counts(parts, run_id) == {stage: 2, "failed": 1}
    assert parts.runs.requeue(run_id) == 1
    assert counts(parts, run_id) == {"parse": 3}
    pass_through(parts, run_id, *STAGES)
    assert counts(parts, run_id) == {"done": 3}


def test_who_held_a_batch_when_it_was_queued_again_can_not_write(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = sent(parts, listed(parts, kb, 2))
    fail(parts, run_id, 1)
    old = claimed(parts, run_id)
    parts.runs.cancel(run_id)
    parts.runs.requeue(run_id)
    with pytest.raises(CeleriacError, match="passed to another"):
        parts.batches.record(old, BatchOutcome(unchanged=(0, 1)), next_stage="chunk")
    assert counts(parts, run_id) == {"parse": 2}


def test_deaths_of_before_are_forgiven_when_it_is_queued_again(parts: Parts, kb: KnowledgeBase) -> None:
    """Somebody may have mended the document, or given the worker more memory."""
    run_id = sent(parts, listed(parts, kb, 2))
    for _ in range(3):
        died(parts, run_id, alone=1)
    fail(parts, run_id, 1)
    parts.runs.cancel(run_id)
    parts.runs.requeue(run_id)
    lease = claimed(parts, run_id)
    assert lease.deaths == 0
    assert [item.crashes for item in parts.batches.items(lease)] == [0, 0]


# --------------------------------------------------------------------------- listing


def test_runs_are_listed_newest_first_with_their_counts(parts: Parts) -> None:
    tenant = f"t-{uuid.uuid4().hex}"
    kb = new_kb(parts, tenant=tenant)
    old, new = listed(parts, kb, 3, 2), listed(parts, kb, start=False)
    listed(parts, new_kb(parts), 1)
    fail(parts, old, 0)
    parts.runs.cancel(old)
    first, second = parts.runs.list(tenant)
    assert (first.id, first.status, first.items, first.over, first.failed) == (new, "discovering", 0, 0, 0)
    assert (second.id, second.status, second.items, second.over, second.failed) == (old, "cancelled", 5, 1, 1)
    assert (second.tenant, second.kb, second.kind) == (tenant, kb.name, "ingest")
    assert second.finished_at is not None
    assert first.finished_at is None
    assert [run.id for run in parts.runs.list(tenant, status="cancelled")] == [old]
    assert [run.id for run in parts.runs.list(tenant, limit=1)] == [new]


# --------------------------------------------------------------------------- by the beginning of an id


def test_runs_are_found_by_the_beginning_of_their_id_among_those_of_their_tenant(parts: Parts) -> None:
    tenant = f"t-{uuid.uuid4().hex}"
    kb, other = new_kb(parts, tenant=tenant), new_kb(parts, tenant=f"{tenant}-other")
    rest = uuid.uuid4().hex[8:]
    first, second, third = (str(uuid.UUID(start + rest)) for start in ("ab120000", "ab12ffff", "ab130000"))
    for run_id in (first, second, third):
        parts.runs.create(run_id, kb.id, RunOptions())
    parts.runs.create(str(uuid.uuid4()), other.id, RunOptions())

    def matching(prefix: str, of: str = tenant) -> list[str]:
        return [run.id for run in parts.runs.matching(of, prefix)]

    assert matching("ab12") == [second, first], "the newest comes first"
    assert matching("AB12F") == matching(second[:13]) == matching(second) == [second]
    assert matching("ab1") == [third, second, first]
    assert matching("ab14") == matching("ab12", other.tenant) == []


@pytest.mark.parametrize("prefix", ["", "-", "xyz", "ab%", "a" * 33])
def test_what_begins_no_id_matches_no_run(prefix: str, parts: Parts, kb: KnowledgeBase) -> None:
    parts.runs.create(str(uuid.uuid4()), kb.id, RunOptions())
    assert parts.runs.matching(kb.tenant, prefix) == []
