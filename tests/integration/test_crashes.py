"""What took a worker process down is known at once, and named."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import Busy
from pipeline.types import Batch, KnowledgeBase
from pipeline.wiring import Parts
from tests.installation import eventually, live_texts, manifest, started, write

if TYPE_CHECKING:
    from tasks.client import Client

LONG = 600.0


def test_the_lease_of_a_process_that_was_seen_dying_ends_at_once(parts: Parts, kb: KnowledgeBase, docs: Path) -> None:
    """Given a batch whose holder has much time left, when its death is noted, the next one has it without waiting."""
    from tasks.requests import note_crash

    write(docs, a="Owls hunt at night.")
    batch = Batch(run_id=started(parts, kb, docs), number=0)
    patient = Parts(parts.settings.model_copy(update={"heartbeat_ttl": LONG}))
    assert patient.batches.claim(batch, "parse", holder="the first") is not None
    with pytest.raises(Busy):
        patient.batches.claim(batch, "parse", holder="too early")
    note_crash("ingest.parse", [batch.encode()], "Worker exited prematurely: signal 11 (SIGSEGV)")
    lease = patient.batches.claim(batch, "parse", holder="the second")
    patient.close()
    parts.runs.cancel(batch.run_id)  # no later sweep shall find it silent
    assert lease is not None
    assert (lease.deaths, lease.crash) == (1, "Worker exited prematurely: signal 11 (SIGSEGV)")


@pytest.mark.parametrize("arguments", [[], ["not a batch"], [{"question": {}}]], ids=["none", "text", "of a question"])
def test_the_death_of_a_process_at_another_task_is_nobodys_batch(arguments: list[object], parts: Parts) -> None:
    from tasks.requests import note_crash

    note_crash("ask.guard", arguments, "Worker exited prematurely: exitcode 1")


def test_a_ledger_that_is_down_does_not_keep_the_message_from_going_back(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import runtime
    from tasks.requests import note_crash

    away = parts.settings.model_copy(
        update={"database_url": type(parts.settings.database_url)("postgresql://127.0.0.1:1/x")}
    )
    monkeypatch.setattr(runtime, "_parts", Parts(away))
    began = time.monotonic()
    note_crash("ingest.parse", [Batch(run_id="00000000-0000-0000-0000-000000000000", number=0).encode()], "x")
    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("worker")
def test_a_document_that_needs_too_much_memory_fails_alone_and_no_process_dies(
    client: Client, parts: Parts, kb: KnowledgeBase, docs: Path
) -> None:
    write(docs, a="Owls hunt at night.", c="Bread rises.")
    # One character beyond the Basic Multilingual Plane, and all of them take four bytes.
    (docs / "b.txt").write_bytes("🦉".encode() + b"x" * 30_000_000 + b"\r\nend")
    run_id = manifest(parts, kb, docs)
    client.start_run(run_id)
    eventually(lambda: parts.runs.find(run_id).status == "done", within=60)
    (failure,) = parts.runs.failures(run_id)
    assert Path(failure.document).name == "b.txt"
    assert (failure.code, failure.attempt) == ("ParseFailed", 1)
    assert failure.message.startswith("It needs more memory than the ")
    assert live_texts(parts, kb) == ["Bread rises.", "Owls hunt at night."]
