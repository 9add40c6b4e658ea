"""Runs through the broker and a real worker."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import Conflict
from pipeline.ingest import flow
from pipeline.types import Batch, KnowledgeBase, Run
from pipeline.wiring import Parts
from tests.installation import (
    DEAFENS,
    HANGS,
    KILLS,
    consistent,
    counts,
    eventually,
    execute,
    ingest,
    live_chunks,
    live_texts,
    manifest,
    new_kb,
    scalars,
    stored_chunks,
    write,
)

if TYPE_CHECKING:
    from tasks.client import Client

pytestmark = [
    pytest.mark.usefixtures("worker"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery's result backend
]


def sent(client: Client, parts: Parts, kb: KnowledgeBase, *paths: Path, prune: bool = False, batch: int = 16) -> str:
    run_id = manifest(parts, kb, *paths, prune=prune, batch_documents=batch)
    client.start_run(run_id)
    return run_id


def over(parts: Parts, run_id: str) -> Run:
    """The run, once it is over."""

    def ended() -> Run | None:
        run = parts.runs.find(run_id)
        return None if run.status in ("discovering", "running") else run

    found = eventually(ended, within=60)
    assert found is not None
    return found


def chunks(parts: Parts, kb: KnowledgeBase) -> list[str]:
    """All that is known of the live chunks, but for ids."""
    columns = (
        "d.key, d.title, d.content_hash, c.ordinal, c.text, c.context, c.start_char, c.end_char, c.page, c.section"
    )
    return scalars(
        parts,
        f"SELECT concat_ws('|', {columns}, c.token_count, encode(c.embed_hash, 'hex')) FROM chunks c JOIN documents d "
        "ON d.id = c.document_id AND d.live_generation = c.generation WHERE d.kb_id = :kb ORDER BY 1",
        kb=kb.id,
    )


def test_the_canvas_makes_the_same_chunks_as_the_flow(
    client: Client, parts: Parts, kb: KnowledgeBase, shared_data: Path
) -> None:
    """Two spellings of one pipeline, compared on 240 documents in many waves, so that they can't drift apart."""
    corpus = shared_data / "xquad_en" / "corpus.jsonl"
    run_id = sent(client, parts, kb, corpus)
    assert over(parts, run_id).status == "done"
    assert counts(parts, run_id) == {"done": 240}
    other = new_kb(parts)
    ingest(parts, other, corpus)
    assert chunks(parts, kb) == chunks(parts, other)
    assert len(live_chunks(parts, kb)) == len(stored_chunks(parts, kb)) > 240
    assert stored_chunks(parts, kb) == live_chunks(parts, kb)
    assert parts.knowledge_bases.find(kb.tenant, kb.name).chunks == len(live_chunks(parts, kb))


def test_new_changed_unchanged_broken_and_vanished_in_one_run(
    client: Client, parts: Parts, kb: KnowledgeBase, docs: Path
) -> None:
    write(docs, same="The same.", changed="Old words.", vanished="Soon gone.")
    over(parts, sent(client, parts, kb, docs))
    write(docs, changed="New words.", new="All new.")
    (docs / "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing")
    (docs / "vanished.txt").unlink()
    run_id = sent(client, parts, kb, docs, prune=True)
    run = over(parts, run_id)
    assert (run.status, run.pruned) == ("done", 1)
    assert counts(parts, run_id) == {"unchanged": 1, "done": 2, "failed": 1}
    assert live_texts(parts, kb) == ["All new.", "New words.", "The same."]
    assert stored_chunks(parts, kb) == live_chunks(parts, kb)


def test_a_run_of_many_waves_ends(client: Client, parts: Parts, kb: KnowledgeBase, docs: Path) -> None:
    lines = [json.dumps({"_id": f"r{n}", "text": f"Record number {n}."}) for n in range(60)]
    (docs / "records.jsonl").write_text("\n".join(lines))
    run_id = sent(client, parts, kb, docs, batch=2)  # 30 batches, 4 a wave
    assert over(parts, run_id).status == "done"
    assert counts(parts, run_id) == {"done": 60}
    assert len(stored_chunks(parts, kb)) == 60


def test_a_run_without_a_source_prunes_and_ends(client: Client, parts: Parts, kb: KnowledgeBase, docs: Path) -> None:
    write(docs, a="Soon gone.")
    over(parts, sent(client, parts, kb, docs))
    (docs / "a.txt").unlink()
    run = over(parts, sent(client, parts, kb, docs, prune=True))
    assert (run.status, run.pruned) == ("done", 1)
    assert stored_chunks(parts, kb) == set()


def test_a_run_sent_twice_does_its_work_once(client: Client, parts: Parts, kb: KnowledgeBase, docs: Path) -> None:
    from tasks import canvases

    write(docs, **{f"f{n}": f"Text number {n}." for n in range(20)})
    run_id = manifest(parts, kb, docs, batch_documents=2)
    client.start_run(run_id)
    for step in (1, 1, 2, 3):  # a redelivered message, and some that come before their time
        canvases.lane(run_id, 0, step).apply_async()
    assert over(parts, run_id).status == "done"
    assert parts.runs.failures(run_id) == []
    assert counts(parts, run_id) == {"done": 20}
    eventually(lambda: stored_chunks(parts, kb) == live_chunks(parts, kb))
    assert len(live_chunks(parts, kb)) == 20


def test_a_cancelled_run_stops_and_goes_on_when_it_is_resumed(
    client: Client, parts: Parts, kb: KnowledgeBase, docs: Path
) -> None:
    lines = [json.dumps({"_id": f"r{n}", "text": f"Record number {n}."}) for n in range(160)]
    (docs / "records.jsonl").write_text("\n".join(lines))
    run_id = sent(client, parts, kb, docs, batch=2)
    eventually(lambda: counts(parts, run_id).get("done", 0) > 0)
    assert client.cancel_run(run_id)
    eventually(lambda: no_message_of(parts, run_id))
    seen = counts(parts, run_id)
    assert seen["parse"] > 0
    assert parts.runs.find(run_id).status == "cancelled"
    assert not client.cancel_run(run_id)
    assert client.resume_run(run_id) == 160 - seen["done"]
    assert over(parts, run_id).status == "done"
    assert counts(parts, run_id) == {"done": 160}
    assert len(stored_chunks(parts, kb)) == 160
    with pytest.raises(Conflict, match="nothing left"):
        client.resume_run(run_id)


def test_what_failed_is_tried_again_and_nothing_else(
    client: Client, parts: Parts, kb: KnowledgeBase, docs: Path
) -> None:
    write(docs, **{f"f{n}": f"Text number {n}." for n in range(6)}, f6=" ", f7=" ")
    run_id = sent(client, parts, kb, docs, batch=3)
    assert over(parts, run_id).status == "done"
    assert counts(parts, run_id) == {"done": 6, "failed": 2}
    before = live_chunks(parts, kb)
    write(docs, f0="Changed since, and not tried again.", f6="Mended.", f7="Mended too.")
    assert client.retry_run(run_id) == 2
    assert over(parts, run_id).status == "done"
    assert counts(parts, run_id) == {"done": 8}
    assert before < live_chunks(parts, kb) == stored_chunks(parts, kb)
    assert "Mended." in live_texts(parts, kb)
    with pytest.raises(Conflict, match="no failed source"):
        client.retry_run(run_id)


def test_an_end_that_is_sent_twice_ends_the_run_once(
    client: Client, parts: Parts, kb: KnowledgeBase, docs: Path
) -> None:
    from tasks import canvases

    write(docs, a="Stays.", b="Soon gone.")
    over(parts, sent(client, parts, kb, docs))
    (docs / "b.txt").unlink()
    run_id = sent(client, parts, kb, docs, prune=True)
    for _ in range(3):
        canvases.end(run_id).apply_async()
    over(parts, run_id)
    eventually(lambda: no_message_of(parts, run_id))
    run = parts.runs.find(run_id)
    assert (run.status, run.pruned, run.error) == ("done", 1, None)
    assert live_texts(parts, kb) == ["Stays."]


def test_what_is_begun_goes_first_and_a_large_run_last(app: Any, parts: Parts) -> None:
    """In the order in which a worker takes them from a queue; nobody listens at this one."""
    from tasks import broker

    order = [("chunk", False), ("parse", False), ("chunk", True), ("parse", True)]
    for stage, bulk in reversed(order):
        batch = Batch(run_id="r", number=0, bulk=bulk)
        app.tasks[f"ingest.{stage}"].apply_async((batch.encode(),), queue="control", task_id=f"order.{stage}.{bulk}")
    keys = broker.keys_of("control")
    ids = [json.loads(message)["headers"]["id"] for key in keys for message in parts.redis.lrange(key, 0, -1)]
    parts.redis.delete(*keys)
    assert ids == [f"order.{stage}.{bulk}" for stage, bulk in order]


def test_a_small_run_overtakes_a_large_one(client: Client, parts: Parts, kb: KnowledgeBase, docs: Path) -> None:
    lines = [json.dumps({"_id": f"r{n}", "text": f"Record number {n}."}) for n in range(240)]
    (docs / "records.jsonl").write_text("\n".join(lines))
    bulk = sent(client, parts, kb, docs, batch=2)
    eventually(lambda: counts(parts, bulk).get("done", 0) > 4)
    other, small = new_kb(parts), docs.parent / "small"
    write(small, a="Owls hunt at night.")
    urgent = sent(client, parts, other, small)
    assert over(parts, urgent).status == "done"
    assert over(parts, bulk).status == "done"
    ended = "SELECT id::text FROM runs WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY finished_at"
    assert scalars(parts, ended, ids=[bulk, urgent]) == [urgent, bulk], "it did not wait for its end"
    assert counts(parts, bulk) == {"done": 240}


def no_message_of(parts: Parts, run_id: str) -> bool:
    from tasks import recovery

    return bool(recovery._without_message({run_id}, parts))


def test_a_run_whose_knowledge_base_is_deleted_leaves_the_worker_well(
    client: Client, parts: Parts, docs: Path, kb: KnowledgeBase
) -> None:
    doomed = new_kb(parts)
    write(docs, **{f"f{n}": f"Text number {n}." for n in range(30)})
    run_id = sent(client, parts, doomed, docs, batch=2)
    parts.knowledge_bases.delete(doomed.id)
    eventually(lambda: no_message_of(parts, run_id))
    assert over(parts, sent(client, parts, kb, docs)).status == "done"


def test_workers_embed_with_the_model_of_the_knowledge_base_not_with_that_of_their_settings(
    client: Client, parts: Parts, docs: Path
) -> None:
    other = new_kb(parts, model="text-embedding-3-small", dimensions=1536)
    write(docs, a=f"A text of {other.id}.")
    run_id = sent(client, parts, other, docs)
    assert over(parts, run_id).status == "done"
    assert counts(parts, run_id) == {"done": 1}
    assert consistent(parts, other)


def test_a_worker_with_other_settings_fails_the_items_with_the_cause(client: Client, parts: Parts, docs: Path) -> None:
    other = new_kb(parts, store="weaviate")
    write(docs, a="A text.")
    run_id = sent(client, parts, other, docs)
    run = over(parts, run_id)
    assert run.status == "failed"
    assert run.error is not None
    assert run.error["code"] == "ModelMismatch"
    assert "CELERIAC_STORE=weaviate" in run.error["hint"]
    (failure,) = parts.runs.failures(run_id)
    assert (failure.code, failure.stage, failure.attempt) == ("ModelMismatch", "parse", 1)


def test_a_run_whose_end_fails_says_why(client: Client, parts: Parts, kb: KnowledgeBase, docs: Path) -> None:
    """The errback of the last task: without it the run would be `running` for ever."""
    from tasks import canvases

    write(docs, a="A text.")
    run_id = manifest(parts, kb, docs)
    parts.runs.start(run_id)
    execute(parts, "UPDATE knowledge_bases SET store = 'weaviate' WHERE id = :kb", kb=kb.id)
    canvases.end(run_id).apply_async()
    run = over(parts, run_id)
    assert run.status == "failed"
    assert run.error is not None
    assert run.error["code"] == "ModelMismatch"


@pytest.mark.parametrize(
    ("text", "cause"), [(KILLS, "signal 9 (SIGKILL)"), (DEAFENS, "exitcode 1")], ids=["kills", "deafens"]
)
def test_a_document_that_brings_down_its_reader_fails_alone_and_is_tried_again_when_it_is_mended(
    text: str, cause: str, client: Client, parts: Parts, kb: KnowledgeBase, docs: Path
) -> None:
    """The others of its batch were in the same hands when it struck, and are read all the same."""
    write(docs, a="Owls hunt at night.", b=text, c="Bread rises.", d="Rivers flow.")
    run_id = sent(client, parts, kb, docs)
    run = over(parts, run_id)
    assert (run.status, run.error) == ("done", None)
    (failure,) = parts.runs.failures(run_id)
    assert (Path(failure.document).name, failure.stage) == ("b.txt", "parse")
    assert "workers died while they had only this document" in failure.message
    assert f"Worker exited prematurely: {cause}" in failure.message
    assert live_texts(parts, kb) == ["Bread rises.", "Owls hunt at night.", "Rivers flow."]
    write(docs, b="Mended.")
    assert client.retry_run(run_id) == 1
    assert over(parts, run_id).status == "done"
    assert "Mended." in live_texts(parts, kb)


def test_a_document_that_never_ends_fails_alone_in_time(
    client: Client, parts: Parts, kb: KnowledgeBase, docs: Path
) -> None:
    write(docs, a="Owls hunt at night.", b=HANGS, c="Bread rises.")
    began = time.monotonic()
    run_id = sent(client, parts, kb, docs)
    assert over(parts, run_id).status == "done"
    assert time.monotonic() - began < 10 * parts.settings.parse_timeout
    (failure,) = parts.runs.failures(run_id)
    assert Path(failure.document).name == "b.txt"
    assert failure.hint
    assert live_texts(parts, kb) == ["Bread rises.", "Owls hunt at night."]


def test_results_of_a_run_do_not_pile_up(client: Client, parts: Parts, kb: KnowledgeBase, docs: Path) -> None:
    """Of all tasks only the last of each batch stores a result, which the chord counts."""
    write(docs, **{f"f{n}": f"Text number {n}." for n in range(8)})
    run_id = sent(client, parts, kb, docs, batch=2)
    over(parts, run_id)
    keys = [key.decode() for key in parts.redis.scan_iter(f"{parts.settings.namespace}:celery-task-meta-{run_id}*")]
    assert all(key.endswith(".upsert") for key in keys)
    assert all(0 < parts.redis.ttl(key) <= parts.settings.result_ttl for key in keys)
    assert flow.STAGES[-1] == "upsert"
