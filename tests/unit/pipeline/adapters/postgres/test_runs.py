from __future__ import annotations

import uuid

import pytest

from pipeline.errors import BadQuestion, NotFound, ParseFailed
from pipeline.types import MAX_ATTEMPTS, Batch, KnowledgeBase, RecordFields, RunOptions, RunStatus, Source
from pipeline.wiring import Parts
from tests.installation import execute, scalars

AWKWARD = '/data/Größe 🧨 "quoted" \\x0a %s.txt'


def source(key: str) -> Source:
    return Source(key=key, origin=key, format="json", offset=3, length=9, columns=("a", 'b"c'))


def created(parts: Parts, kb: KnowledgeBase, *batches: int, start: bool = True) -> str:
    """A run with so many sources in each batch."""
    run_id, number = str(uuid.uuid4()), 0
    parts.runs.create(run_id, kb.id, RunOptions())
    for batch, size in enumerate(batches):
        parts.runs.add(run_id, batch, [(number + n, source(f"k{number + n}")) for n in range(size)])
        number += size
    if start:
        parts.runs.start(run_id)
    return run_id


def advance(parts: Parts, run_id: str, *numbers: int, status: str = "done") -> None:
    parts.runs.advance(run_id, [{"number": number, "status": status} for number in numbers])


# --------------------------------------------------------------------------- manifests


def test_a_run_is_read_back_with_its_knowledge_base_and_options(parts: Parts, kb: KnowledgeBase) -> None:
    options = RunOptions(roots=("/a", AWKWARD), fields=RecordFields(text=("t", "u"), id="i"), prune=True)
    run_id = str(uuid.uuid4())
    parts.runs.create(run_id, kb.id, options)
    run = parts.runs.find(run_id)
    assert (run.kb, run.options, run.status, run.epoch, run.pruned, run.error) == (
        kb,
        options,
        "discovering",
        0,
        0,
        None,
    )


def test_an_unknown_run_is_not_there(parts: Parts) -> None:
    with pytest.raises(NotFound, match="There is no run"):
        parts.runs.find(str(uuid.uuid4()))


def test_sources_are_read_back_as_they_were_in_the_order_of_their_numbers(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = created(parts, kb)
    given = [(2, source("c")), (0, source(AWKWARD)), (1, source("b"))]
    parts.runs.add(run_id, 5, given)
    found = parts.runs.items(Batch(run_id=run_id, number=5), "queued")
    assert [(item.number, item.source) for item in found] == sorted(given, key=lambda pair: pair[0])
    assert parts.runs.items(Batch(run_id=run_id, number=4), "queued") == []


def test_of_two_sources_with_one_key_the_last_counts(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = created(parts, kb)
    first, last = source("k"), source("k").model_copy(update={"offset": 77})
    parts.runs.add(run_id, 0, [(0, first), (1, source("other")), (2, last)])
    found = {item.key: item.source for item in parts.runs.items(Batch(run_id=run_id, number=0), "queued")}
    assert found == {"k": last, "other": source("other")}
    parts.runs.add(run_id, 1, [(3, first)])
    assert parts.runs.items(Batch(run_id=run_id, number=0), "queued")[-1].source == first
    assert parts.runs.items(Batch(run_id=run_id, number=1), "queued") == []


def test_a_manifest_is_worked_on_only_while_its_run_is_running(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = created(parts, kb, 1, start=False)
    batch = Batch(run_id=run_id, number=0)
    assert parts.runs.items(batch, "queued") == []
    parts.runs.start(run_id)
    assert len(parts.runs.items(batch, "queued")) == 1
    parts.runs.finish(run_id, "cancelled")
    parts.runs.start(run_id)
    assert parts.runs.find(run_id).status == "cancelled"
    assert parts.runs.items(batch, "queued") == []


# --------------------------------------------------------------------------- waves and attempts


def test_a_wave_is_the_next_batches_with_work_left(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = created(parts, kb, 2, 1, 1, 1)
    assert parts.runs.wave(run_id, 2) == [0, 1]
    advance(parts, run_id, 0)
    assert parts.runs.wave(run_id, 2) == [0, 1]
    advance(parts, run_id, 1, 2)
    assert parts.runs.wave(run_id, 2) == [2, 3]
    advance(parts, run_id, 3, status="embedded")
    parts.runs.fail(run_id, {4: ParseFailed("It broke.")})
    assert parts.runs.wave(run_id, 2) == [2]


def test_a_batch_is_tried_so_often_and_then_left_for_the_end(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = created(parts, kb, 1, 1)
    for _ in range(MAX_ATTEMPTS):
        assert parts.runs.wave(run_id, 10) == [0, 1]
        parts.runs.take(run_id, [0])
    assert parts.runs.wave(run_id, 10) == [1]
    assert sorted(parts.runs.open_numbers(run_id)) == [0, 1]
    assert parts.runs.open_numbers(run_id, 1) == [1]
    assert parts.runs.open_numbers(run_id, attempts=MAX_ATTEMPTS) == [0]


# --------------------------------------------------------------------------- progress


def test_an_item_that_is_over_stays_as_it_is(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = created(parts, kb, 3)
    parts.runs.fail(run_id, {0: ParseFailed("First.")})
    advance(parts, run_id, 1)
    advance(parts, run_id, 0, 1, status="parsed")
    parts.runs.fail(run_id, {0: ParseFailed("Second."), 1: ParseFailed("Second.")})
    assert parts.runs.progress(run_id).items == {"failed": 1, "done": 1, "queued": 1}
    assert [error["message"] for _, error in parts.runs.failures(run_id)] == ["First."]


def test_the_first_delivery_sets_the_generation_and_a_second_one_can_not_change_it(
    parts: Parts, kb: KnowledgeBase
) -> None:
    """Else one would declare complete what the other has not begun to write, and a reader find nothing."""
    run_id = created(parts, kb, 1)
    parsed = {"number": 0, "status": "parsed", "document_id": str(uuid.uuid4())}
    parts.runs.advance(run_id, [{**parsed, "generation": 1}])
    parts.runs.advance(run_id, [{"number": 0, "status": "chunked", "chunks": 3}])
    parts.runs.advance(run_id, [{**parsed, "generation": 2}])
    (item,) = parts.runs.items(Batch(run_id=run_id, number=0), "chunked")
    assert item.generation == 1


def test_progress_counts_items_chunks_and_texts(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = created(parts, kb, 4)
    document = str(uuid.uuid4())
    parts.runs.advance(
        run_id,
        [
            {"number": 0, "status": "chunked", "chunks": 3, "document_id": document, "generation": 7},
            {"number": 1, "status": "unchanged"},
        ],
    )
    parts.runs.advance(run_id, [{"number": 0, "status": "embedded", "embedded": 2}])
    progress = parts.runs.progress(run_id)
    assert (progress.total, progress.over, progress.chunks, progress.embedded) == (4, 1, 3, 2)
    (item,) = parts.runs.items(Batch(run_id=run_id, number=0), "embedded")
    assert (item.document_id, item.generation) == (document, 7)


def test_nothing_to_move_and_nothing_to_fail_is_nothing_to_do(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = created(parts, kb, 1)
    parts.runs.advance(run_id, [])
    parts.runs.fail(run_id, {})
    assert parts.runs.progress(run_id).items == {"queued": 1}


def test_failures_are_told_in_order_and_so_many(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = created(parts, kb, 5)
    parts.runs.fail(run_id, {n: ParseFailed(f"No {n} 🧨.", "Mend it.", {"n": n}) for n in reversed(range(5))})
    found = parts.runs.failures(run_id, limit=2)
    assert [(key, error["message"], error["detail"]) for key, error in found] == [
        ("k0", "No 0 🧨.", {"n": 0}),
        ("k1", "No 1 🧨.", {"n": 1}),
    ]


def test_documents_touched_come_page_by_page(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = created(parts, kb, 5)
    ids = sorted(str(uuid.uuid4()) for _ in range(5))
    rows = [{"number": n, "status": "parsed", "document_id": document} for n, document in enumerate(ids)]
    parts.runs.advance(run_id, rows)
    first = parts.runs.document_ids(run_id, str(uuid.UUID(int=0)), 3)
    assert first == ids[:3]
    assert parts.runs.document_ids(run_id, first[-1], 3) == ids[3:]


# --------------------------------------------------------------------------- the end


@pytest.mark.parametrize("status", ["done", "failed", "cancelled"])
@pytest.mark.parametrize("later", ["done", "failed", "cancelled"])
def test_the_first_end_is_final(status: RunStatus, later: RunStatus, parts: Parts, kb: KnowledgeBase) -> None:
    run_id = created(parts, kb, 1)
    assert parts.runs.finish(run_id, status, pruned=3)
    assert not parts.runs.finish(run_id, later, error=BadQuestion("Too late."), pruned=9)
    run = parts.runs.find(run_id)
    assert (run.status, run.pruned, run.error) == (status, 3, None)
    assert parts.runs.progress(run_id).items == {"cancelled": 1}
    assert parts.runs.resubmit(run_id) is None


def test_a_failed_run_says_why(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = created(parts, kb)
    parts.runs.finish(run_id, "failed", error=NotFound("It isn't there.", "Look elsewhere."))
    error = parts.runs.find(run_id).error
    assert error is not None
    assert (error["code"], error["message"], error["hint"]) == ("NotFound", "It isn't there.", "Look elsewhere.")


def test_each_resubmission_is_a_new_epoch(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = created(parts, kb)
    assert [parts.runs.resubmit(run_id), parts.runs.resubmit(run_id)] == [1, 2]
    assert parts.runs.find(run_id).epoch == 2
    assert parts.runs.resubmit(created(parts, kb, start=False)) is None


def test_a_run_is_silent_when_nobody_has_worked_on_it(parts: Parts, kb: KnowledgeBase) -> None:
    run_id = created(parts, kb, 2)

    def silence() -> bool:
        execute(parts, "UPDATE runs SET heartbeat_at = now() - interval '60 s' WHERE id = :id", id=run_id)
        return is_silent()

    def is_silent() -> bool:
        return (run_id, "running") in parts.runs.silent(30)

    assert not is_silent()
    assert silence()
    for sign_of_life in (
        lambda: parts.runs.take(run_id, [0]),
        lambda: advance(parts, run_id, 0),
        lambda: parts.runs.resubmit(run_id),
    ):
        assert silence()
        sign_of_life()
        assert not is_silent()
    parts.runs.finish(run_id, "done")
    assert not silence()


def test_the_rows_of_a_manifest_are_small(parts: Parts, kb: KnowledgeBase) -> None:
    """A million records make a million rows: defaults are left out."""
    run_id = created(parts, kb)
    parts.runs.add(run_id, 0, [(0, Source(key="k", origin="k", format="text"))])
    (row,) = scalars(parts, "SELECT source::text FROM run_items WHERE run_id = :id", id=run_id)
    assert len(row) < 60
