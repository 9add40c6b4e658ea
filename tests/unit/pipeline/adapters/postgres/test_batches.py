"""Leases on batches, what is recorded under them, and the waves they are sent in."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from pipeline.adapters.postgres import batches, runs
from pipeline.errors import Busy, Cancelled, InternalFault, ParseFailed, Unreachable
from pipeline.ingest.flow import STAGES
from pipeline.types import Batch, BatchOutcome, IngestStage, KnowledgeBase, Lease
from pipeline.wiring import Parts
from tests.installation import claimed, counts, died, execute, listed, scalars

NEXT = dict(zip(STAGES, (*STAGES[1:], "over"), strict=True))


def batch(run_id: str, number: int = 0) -> Batch:
    return Batch(run_id=run_id, number=number)


def at(parts: Parts, kb: KnowledgeBase, stage: IngestStage, size: int = 3) -> str:
    """A run of one batch that has come to this stage."""
    run_id = listed(parts, kb, size)
    for name in STAGES[: STAGES.index(stage)]:
        parts.batches.record(claimed(parts, run_id, name), BatchOutcome(), next_stage=NEXT[name])
    return run_id


def numbers(parts: Parts, lease: Lease) -> list[int]:
    return [item.number for item in parts.batches.items(lease)]


def row(parts: Parts, run_id: str, columns: str, number: int = 0) -> str:
    (found,) = scalars(
        parts, f"SELECT ({columns})::text FROM run_batches WHERE run_id = :id AND number = :n", id=run_id, n=number
    )
    return found


# --------------------------------------------------------------------------- leases


def test_a_batch_has_one_holder_at_a_time(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 3)

    def claim(name: str) -> Lease | Busy | None:
        try:
            return parts.batches.claim(batch(run_id), "parse", name)
        except Busy as busy:
            return busy

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(claim, (f"{run_id}-{n}" for n in range(12))))
    refused = [error for error in found if isinstance(error, Busy)]
    assert len(refused) == 11
    assert all(0 < (error.retry_after or 0) <= parts.settings.heartbeat_ttl for error in refused)


def test_only_the_stage_that_comes_next_can_be_claimed(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = at(parts, kb, "embed")
    assert [parts.batches.claim(batch(run_id), name, str(uuid.uuid4())) for name in ("parse", "chunk", "upsert")] == [
        None
    ] * 3
    assert claimed(parts, run_id, "embed").stage == "embed"


def test_a_batch_of_a_run_that_is_not_running_can_not_be_claimed(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 1, start=False)
    assert parts.batches.claim(batch(run_id), "parse", "h") is None
    parts.runs.start(run_id)
    parts.batches.release(claimed(parts, run_id))
    parts.runs.cancel(run_id)
    assert parts.batches.claim(batch(run_id), "parse", "h") is None
    assert parts.batches.claim(batch(str(uuid.uuid4())), "parse", "h") is None


def test_a_lease_that_is_given_back_can_be_taken_at_once_and_nobody_died(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 3)
    for _ in range(5):
        lease = claimed(parts, run_id)
        assert (lease.deaths, lease.crash, numbers(parts, lease)) == (0, "", [0, 1, 2])
        parts.batches.alone(lease, 1)
        parts.batches.release(lease)
    assert [item.crashes for item in parts.batches.items(claimed(parts, run_id))] == [0, 0, 0]


def test_a_lease_that_ran_out_is_taken_over_and_its_holder_counts_as_dead(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 3)
    first, second = died(parts, run_id), died(parts, run_id)
    third = claimed(parts, run_id)
    assert [lease.deaths for lease in (first, second, third)] == [0, 1, 2]
    assert first.fence < second.fence < third.fence
    parts.batches.record(third, BatchOutcome(), next_stage="chunk")
    assert claimed(parts, run_id, "chunk").deaths == 0, "another stage, another story"


def test_a_death_counts_against_the_item_that_was_alone_and_against_no_other(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 3)
    died(parts, run_id)  # with all three in hand: nobody to blame
    died(parts, run_id, alone=1)
    died(parts, run_id, alone=1)
    died(parts, run_id, alone=2)
    assert [item.crashes for item in parts.batches.items(claimed(parts, run_id))] == [0, 2, 1]


def test_a_death_after_the_item_alone_was_recorded_is_not_its_fault(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 2)
    parts.batches.record(died(parts, run_id, alone=0), BatchOutcome(versions={0: (str(uuid.uuid4()), 1)}))
    assert [item.crashes for item in parts.batches.items(claimed(parts, run_id))] == [0, 0]


def test_a_renewed_lease_lives_on_and_one_that_another_took_is_left_alone(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 1, 1)
    kept, lost = died(parts, run_id, batch=0), died(parts, run_id, batch=1)
    died(parts, run_id, batch=1)
    parts.batches.renew([kept.holder, lost.holder, "of no batch"])
    with pytest.raises(Busy):
        parts.batches.claim(batch(run_id, 0), "parse", "h")
    assert parts.batches.claim(batch(run_id, 1), "parse", f"h{run_id}") is not None


def test_the_lease_of_a_holder_that_was_seen_to_die_ends_at_once_with_its_cause(
    parts: Parts, kb: KnowledgeBase
) -> None:
    run_id = listed(parts, kb, 2)
    parts.batches.alone(claimed(parts, run_id), 1)
    parts.batches.crashed(batch(run_id), "signal 11 (SIGSEGV)")
    lease = claimed(parts, run_id)
    assert (lease.deaths, lease.crash) == (1, "signal 11 (SIGSEGV)")
    assert [item.crashes for item in parts.batches.items(lease)] == [0, 1]


def test_a_batch_that_nobody_holds_can_not_crash(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 1)
    parts.batches.release(claimed(parts, run_id))
    parts.batches.crashed(batch(run_id), "signal 11 (SIGSEGV)")
    assert (claimed(parts, run_id).deaths, row(parts, run_id, "crash IS NULL")) == (0, "true")


# --------------------------------------------------------------------------- outcomes


def test_an_outcome_ends_items_moves_the_batch_on_and_is_counted(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 4)
    document = str(uuid.uuid4())
    outcome = BatchOutcome(versions={0: (document, 7), 3: (document, 8)}, unchanged=(1,), failed={2: ParseFailed("x")})
    parts.batches.record(claimed(parts, run_id), outcome, next_stage="chunk")
    lease = claimed(parts, run_id, "chunk")
    assert [(i.number, i.document_id, i.generation) for i in parts.batches.items(lease)] == [
        (0, document, 7),
        (3, document, 8),
    ]
    parts.batches.record(lease, BatchOutcome(chunks=5), next_stage="embed")
    parts.batches.record(claimed(parts, run_id, "embed"), BatchOutcome(embedded=2), next_stage="upsert")
    progress = parts.runs.progress(run_id)
    assert (progress.waiting, progress.total, progress.over) == ({"upsert": 2}, 4, 2)
    parts.batches.record(claimed(parts, run_id, "upsert"), BatchOutcome(done=(0, 3)), next_stage="over")
    progress = parts.runs.progress(run_id)
    assert (progress.waiting, progress.total, progress.over) == ({}, 4, 4)
    assert (progress.done, progress.unchanged, progress.failed, progress.chunks, progress.embedded) == (2, 1, 1, 5, 2)


@pytest.mark.parametrize("outcome", [{"unchanged": (0, 1)}, {"failed": {0: ParseFailed("x"), 1: ParseFailed("x")}}])
def test_a_batch_whose_items_have_all_ended_goes_no_further(
    outcome: dict[str, object], parts: Parts, kb: KnowledgeBase
) -> None:
    run_id = listed(parts, kb, 2)
    parts.batches.record(claimed(parts, run_id), BatchOutcome(**outcome), next_stage="chunk")  # type: ignore[arg-type]
    assert row(parts, run_id, "stage") == "over"
    assert parts.batches.claim(batch(run_id), "chunk", "h") is None


@pytest.mark.parametrize("stage", STAGES)
def test_who_has_lost_the_lease_can_change_nothing(stage: IngestStage, parts: Parts, kb: KnowledgeBase) -> None:
    """Given a worker that was silent for too long, when it wakes up, what it says is void: the other's word counts."""
    run_id = at(parts, kb, stage)
    zombie = died(parts, run_id, stage)
    holder = claimed(parts, run_id, stage)
    parts.batches.alone(holder, 2)
    before = scalars(parts, "SELECT to_jsonb(b)::text FROM run_batches b WHERE run_id = :id", id=run_id)
    parts.batches.alone(zombie, 1)
    parts.batches.release(zombie)
    bad = BatchOutcome(unchanged=(0,), failed={1: ParseFailed("Late.")}, done=(2,), chunks=9, embedded=9)
    for following in (None, NEXT[stage]):
        with pytest.raises(Cancelled):
            parts.batches.record(zombie, bad, next_stage=following)
    assert scalars(parts, "SELECT to_jsonb(b)::text FROM run_batches b WHERE run_id = :id", id=run_id) == before
    assert counts(parts, run_id) == {stage: 3}
    assert numbers(parts, holder) == [0, 1, 2]
    parts.batches.record(holder, BatchOutcome(), next_stage=NEXT[stage])
    with pytest.raises(Cancelled):
        parts.batches.record(zombie, bad)


def test_who_was_silent_but_not_replaced_may_still_write(parts: Parts, kb: KnowledgeBase) -> None:
    """Postgres may have been down for longer than a lease: the work is not thrown away for that."""
    run_id = listed(parts, kb, 1)
    parts.batches.record(died(parts, run_id), BatchOutcome(unchanged=(0,)), next_stage="chunk")
    assert counts(parts, run_id) == {"unchanged": 1}


def test_parts_of_a_batch_are_recorded_one_by_one_and_counted_once(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 3)
    lease = claimed(parts, run_id)
    parts.batches.record(lease, BatchOutcome(failed={1: ParseFailed("x")}))
    parts.batches.record(lease, BatchOutcome(versions={0: (str(uuid.uuid4()), 1)}))
    assert (counts(parts, run_id), row(parts, run_id, "stage")) == ({"parse": 2, "failed": 1}, "parse")
    parts.batches.record(lease, BatchOutcome(failed={1: ParseFailed("again")}))
    assert counts(parts, run_id) == {"parse": 2, "failed": 1}
    parts.batches.record(lease, BatchOutcome(), next_stage="chunk")
    assert counts(parts, run_id) == {"chunk": 2, "failed": 1}
    assert numbers(parts, claimed(parts, run_id, "chunk")) == [0, 2]


# --------------------------------------------------------------------------- giving up


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_is_given_up_with_its_open_items(stage: IngestStage, parts: Parts, kb: KnowledgeBase) -> None:
    run_id = at(parts, kb, stage)
    lease = claimed(parts, run_id, stage)
    parts.batches.record(lease, BatchOutcome(unchanged=(1,)))
    parts.batches.release(lease)
    for _ in range(2):
        parts.batches.give_up(batch(run_id), stage, Unreachable("It is down.", "Start it."), attempt=6)
        assert counts(parts, run_id) == {"unchanged": 1, "failed": 2}
    assert row(parts, run_id, "stage") == "over"
    assert [(f.number, f.stage, f.attempt, f.code) for f in parts.runs.failures(run_id)] == [
        (0, stage, 6, "Unreachable"),
        (2, stage, 6, "Unreachable"),
    ]
    with pytest.raises(Cancelled):
        parts.batches.record(lease, BatchOutcome(done=(0,)))


def test_a_batch_is_given_up_only_at_its_stage(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = at(parts, kb, "embed")
    parts.batches.give_up(batch(run_id), "chunk", Unreachable("It is down."), attempt=1)
    assert counts(parts, run_id) == {"embed": 3}


def test_a_batch_that_somebody_works_on_is_not_given_up(parts: Parts, kb: KnowledgeBase) -> None:
    """A second delivery may fail for reasons of its own, and must not take the work out of the first one's hands."""
    run_id = listed(parts, kb, 3)
    lease = claimed(parts, run_id)
    parts.batches.give_up(batch(run_id), "parse", InternalFault("Mine alone."), attempt=1)
    parts.batches.record(lease, BatchOutcome(), next_stage="chunk")
    assert counts(parts, run_id) == {"chunk": 3}


def test_nothing_is_given_up_in_a_run_that_was_cancelled(parts: Parts, kb: KnowledgeBase) -> None:
    """What was under way when it was cancelled goes on when it is resumed."""
    run_id = listed(parts, kb, 3)
    lanes(parts, run_id)
    parts.runs.cancel(run_id)
    parts.batches.give_up(batch(run_id), "parse", Unreachable("It is down."), attempt=1)
    assert counts(parts, run_id) == {"parse": 3}
    assert parts.runs.reopen(run_id) == 3


def test_a_batch_without_an_open_item_is_over_when_it_is_given_up(parts: Parts, kb: KnowledgeBase) -> None:
    """Else its lane would send it again, for ever."""
    run_id = listed(parts, kb, 1)
    lease = claimed(parts, run_id)
    parts.batches.record(lease, BatchOutcome(failed={0: ParseFailed("x")}))
    parts.batches.release(lease)
    parts.batches.give_up(batch(run_id), "parse", InternalFault("Something else."), attempt=1)
    assert (row(parts, run_id, "stage"), counts(parts, run_id)) == ("over", {"failed": 1})


# --------------------------------------------------------------------------- waves


def lanes(parts: Parts, run_id: str, *, most: int = 3, size: int = 2) -> list[tuple[int, int]]:
    return parts.batches.open_lanes(run_id, lanes=most, size=size)


def end(parts: Parts, run_id: str, *numbers: int) -> None:
    for number in numbers:
        parts.batches.record(
            claimed(parts, run_id, batch=number), BatchOutcome(unchanged=(number,)), next_stage="chunk"
        )


@pytest.mark.parametrize(
    ("many", "opened"), [(0, [0]), (1, [0]), (2, [0]), (3, [0, 1]), (5, [0, 1, 2]), (9, [0, 1, 2])]
)
def test_a_run_gets_no_more_lanes_than_it_has_waves(
    many: int, opened: list[int], parts: Parts, kb: KnowledgeBase
) -> None:
    run_id = listed(parts, kb, *[1] * many)
    assert lanes(parts, run_id) == [(lane, 1) for lane in opened]


def test_no_batch_is_handed_out_twice_and_none_is_left(parts: Parts, kb: KnowledgeBase) -> None:
    """Whatever number of lanes asks at once."""
    run_id = listed(parts, kb, *[1] * 60)
    steps = dict(lanes(parts, run_id, most=6, size=4))

    def all_of(lane: int) -> list[int]:
        taken: list[int] = []
        while (wave := parts.batches.next_wave(run_id, lane, steps[lane], 4)) is not None and wave.batches:
            steps[lane] += 1
            taken += [number for number, _ in wave.batches]
            end(parts, run_id, *[number for number, _ in wave.batches])
        return taken

    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(all_of, steps))
    assert sorted(number for share in taken for number in share) == list(range(60))
    last = [wave for lane in steps if (wave := parts.batches.next_wave(run_id, lane, steps[lane] + 1, 4)) is not None]
    assert all(wave.last for wave in last)


def test_a_wave_starts_with_what_the_lane_left_open_at_the_stage_it_is_at(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 1, 1, 1, 1, 1)
    ((lane, step),) = lanes(parts, run_id, most=1, size=3)
    first = parts.batches.next_wave(run_id, lane, step, 3)
    assert first is not None
    assert (first.batches, first.bulk) == (((0, "parse"), (1, "parse"), (2, "parse")), True)
    end(parts, run_id, 0, 2)
    parts.batches.record(claimed(parts, run_id, batch=1), BatchOutcome(), next_stage="chunk")
    second = parts.batches.next_wave(run_id, lane, step + 1, 3)
    assert second is not None
    assert second.batches == ((1, "chunk"), (3, "parse"), (4, "parse"))


def test_a_step_is_done_once(parts: Parts, kb: KnowledgeBase) -> None:
    """A message that is delivered twice, or comes from before the lane was sent again, sends nothing."""
    run_id = listed(parts, kb, *[1] * 8)
    ((lane, step),) = lanes(parts, run_id, most=1)
    with ThreadPoolExecutor(4) as pool:
        waves = list(pool.map(lambda _: parts.batches.next_wave(run_id, lane, step, 2), range(8)))
    assert len([wave for wave in waves if wave is not None]) == 1
    again = parts.batches.resend(run_id, lane)
    assert again == step + 2
    assert parts.batches.next_wave(run_id, lane, step + 1, 2) is None
    wave = parts.batches.next_wave(run_id, lane, again, 2)
    assert wave is not None
    assert [number for number, _ in wave.batches] == [0, 1], "they are still open"


def test_only_the_lane_that_ends_last_finds_that_nothing_is_left(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 1, 1)
    (one, first), (two, second) = lanes(parts, run_id, most=2, size=1)
    for lane, step in ((one, first), (two, second)):
        assert parts.batches.next_wave(run_id, lane, step, 1) is not None
    end(parts, run_id, 0)
    idle = parts.batches.next_wave(run_id, one, first + 1, 1)
    assert idle is not None
    assert (idle.batches, idle.last) == ((), False)
    end(parts, run_id, 1)
    last = parts.batches.next_wave(run_id, two, second + 1, 1)
    assert last is not None
    assert (last.batches, last.last) == ((), True)


def test_a_run_that_is_over_sends_nothing(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 1)
    ((lane, step),) = lanes(parts, run_id)
    parts.runs.cancel(run_id)
    assert parts.batches.next_wave(run_id, lane, step, 2) is None
    assert parts.batches.resend(run_id, lane) is None
    assert lanes(parts, run_id) == []


def test_opening_the_lanes_again_calls_back_what_was_sent(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, *[1] * 6)
    before = lanes(parts, run_id, most=3)
    for lane, step in before:
        parts.batches.next_wave(run_id, lane, step, 2)
    end(parts, run_id, 3)
    after = lanes(parts, run_id, most=3)
    assert [step for _, step in after] == [step + 2 for _, step in before]
    assert all(parts.batches.next_wave(run_id, lane, step + 1, 2) is None for lane, step in before)
    waves = [parts.batches.next_wave(run_id, lane, step, 2) for lane, step in after]
    assert sorted(number for wave in waves if wave for number, _ in wave.batches) == [0, 1, 2, 4, 5]


# --------------------------------------------------------------------------- silence


def hush(parts: Parts, run_id: str) -> None:
    execute(parts, "UPDATE run_lanes SET sent_at = now() - interval '1 hour' WHERE run_id = :id", id=run_id)


def silent(parts: Parts, run_id: str) -> list[int]:
    return [lane for run, lane in parts.batches.silent_lanes(30) if run == run_id]


def test_a_lane_with_open_batches_is_silent_unless_somebody_holds_one(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 1, 1, 1, 1)
    for lane, step in lanes(parts, run_id, most=2):
        parts.batches.next_wave(run_id, lane, step, 2)
    assert silent(parts, run_id) == [], "it was heard of a moment ago"
    hush(parts, run_id)
    assert silent(parts, run_id) == [0, 1]
    lease = claimed(parts, run_id, batch=1)
    assert silent(parts, run_id) == [1]
    parts.batches.release(lease)
    died(parts, run_id, batch=2)
    assert silent(parts, run_id) == [0, 1]
    parts.runs.cancel(run_id)
    assert silent(parts, run_id) == []


def test_a_lane_that_has_ended_its_own_is_silent_while_some_batch_was_never_sent(
    parts: Parts, kb: KnowledgeBase
) -> None:
    run_id = listed(parts, kb, 1, 1)
    ((lane, step),) = lanes(parts, run_id, most=1, size=1)
    parts.batches.next_wave(run_id, lane, step, 1)
    end(parts, run_id, 0)
    hush(parts, run_id)
    assert silent(parts, run_id) == [0]


def test_a_lane_with_nothing_to_do_is_not_silent_while_another_works(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 1, 1)
    for lane, step in lanes(parts, run_id, most=2, size=1):
        parts.batches.next_wave(run_id, lane, step, 1)
    end(parts, run_id, 0)
    hush(parts, run_id)
    assert silent(parts, run_id) == [1]


def test_where_all_is_done_and_nobody_ended_the_run_the_first_lane_is_silent(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 1, 1)
    for lane, step in lanes(parts, run_id, most=2, size=1):
        parts.batches.next_wave(run_id, lane, step, 1)
    end(parts, run_id, 0, 1)
    hush(parts, run_id)
    assert silent(parts, run_id) == [0]
    parts.runs.finish(run_id, "done")
    assert silent(parts, run_id) == []


def test_a_lane_that_was_sent_again_is_not_silent(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = listed(parts, kb, 1)
    lanes(parts, run_id)
    hush(parts, run_id)
    parts.batches.resend(run_id, 0)
    assert silent(parts, run_id) == []


# --------------------------------------------------------------------------- size

PLACE = {"number": 7, "stage": "parse", "lane": 0, "step": 1, "limit": 8, "size": 8, "lanes": 4, "after": None}
OFTEN = {
    ledger: list(names.split())
    for ledger, names in {
        batches: "_LOOK _TAKE _COUNT_CRASH _ITEMS _RENEW _RECORD _MOVE_ON _END _LOCK_DOCUMENTS _FAIL _ABANDONED "
        "_OPEN_ITEMS _GIVE_UP _STEP _LEFT_OPEN _NEXT _ANY_OPEN _SILENT _RECALL",
        runs: "_PROGRESS _FAILURES _LIST _FINISH _COUNT_OPEN _REQUEUE_BATCHES _REQUEUE_ITEMS",
    }.items()
}


def test_no_statement_reads_all_the_sources_of_a_large_run(parts: Parts, kb: KnowledgeBase) -> None:
    """Asked once for every batch, that would make the time of a run grow with the square of its size."""
    run_id = listed(parts, kb)
    source = '{"key": "k", "origin": "k", "format": "text"}'
    items = "INSERT INTO run_items (run_id, number, key, source) SELECT :id, n, 'k' || n, CAST(:source AS jsonb)"
    execute(parts, f"{items} FROM generate_series(0, 29999) n", id=run_id, source=source)
    shares = (
        "INSERT INTO run_batches (run_id, number, first_item, last_item, items) SELECT :id, n, n * 100, n * 100 + 99"
    )
    execute(parts, f"{shares}, 100 FROM generate_series(0, 299) n", id=run_id)
    execute(
        parts, "UPDATE run_items SET status = 'failed', failed_at = now() WHERE run_id = :id AND number < 5", id=run_id
    )
    execute(parts, "ANALYZE run_items, run_batches, run_lanes, runs")
    values: dict[str, object] = {
        **PLACE,
        **dict.fromkeys(("id", "run_id"), run_id),
        "holder": "h",
        "holders": ["h"],
        "fence": 1,
        "seconds": 10.0,
        "deaths": 0,
        "next": "chunk",
        "status": "done",
        "first": 700,
        "last": 799,
        "numbers": [700, 701],
        "item": 700,
        "attempt": 1,
        "tenant": "default",
        "lowest": "0" * 32,
        "highest": "f" * 32,
        "rows": '[{"number": 700, "error": {}}]',
        "error": None,
        "pruned": 0,
        **dict.fromkeys(("done", "unchanged", "failed", "chunks", "embedded"), 0),
    }
    for ledger, names in OFTEN.items():
        for name in names:
            plan = explained(parts, getattr(ledger, name), values)
            assert "Seq Scan on run_items" not in plan, f"{name}:\n{plan}"


def explained(parts: Parts, statement: sa.TextClause, values: dict[str, object]) -> str:
    wanted = {name: values[name] for name in statement.compile().params}
    with parts.engine.begin() as connection:
        return "\n".join(connection.execute(sa.text(f"EXPLAIN {statement.text}"), wanted).scalars())
