"""Stages under leases: delivered twice, killed in the middle, taken over, cancelled, isolated."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import Busy, Cancelled, ModelMismatch, NotFound, Unreachable
from pipeline.ingest import flow
from pipeline.leases import LeaseKeeper
from pipeline.seams import EmbeddedPart
from pipeline.types import Batch, Chunk, IngestStage, KnowledgeBase, ParsedDocument
from pipeline.wiring import Parts
from tests.installation import (
    LONG,
    CountingEmbedder,
    Crash,
    consistent,
    counts,
    crashing,
    died,
    eventually,
    expire,
    found,
    ingest,
    live_chunks,
    live_texts,
    new_kb,
    run_stages,
    started,
    stored_chunks,
    with_,
    write,
)

# --------------------------------------------------------------------------- delivered twice, crashed between


@pytest.mark.parametrize("stage", flow.STAGES)
def test_any_stage_may_run_twice(stage: str, parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    write(tmp_path, a="Owls hunt at night.", b=LONG)
    embedder = CountingEmbedder(parts)
    counting = with_(parts, embedder=embedder)
    run_id = started(parts, kb, tmp_path)
    for name in flow.STAGES:
        run_stages(counting, run_id, name)
        if name == stage:
            before = parts.runs.progress(run_id)
            run_stages(counting, run_id, *flow.STAGES[: flow.STAGES.index(name) + 1])
            assert parts.runs.progress(run_id) == before
    flow.end(run_id, parts)
    flow.end(run_id, parts)
    assert counts(parts, run_id) == {"done": 2}
    assert len(embedder.texts) == len(set(embedder.texts))
    assert consistent(parts, kb)


STEPS = [
    *(("parse", "documents", "register"), ("parse", "documents", "save_drafts"), ("parse", "batches", "record")),
    *(("chunk", "documents", "save_chunks"), ("chunk", "batches", "record")),
    *(("embed", "embeddings", "save"), ("embed", "batches", "record")),
    *(("upsert", "store", "upsert"), ("upsert", "documents", "switch"), ("upsert", "store", "delete")),
    *(("upsert", "documents", "forget_superseded"), ("upsert", "batches", "record")),
]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(("stage", "part", "step"), STEPS)
def test_a_run_goes_on_from_a_crash_at_any_step(
    stage: str,
    part: str,
    step: str,
    before: bool,
    parts: Parts,
    kb: KnowledgeBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given a live generation, when a worker dies while it writes the next one, then the old one answers until a
    second delivery is done, and nothing of the first is left behind.
    """
    write(tmp_path, a=f"The code word is marzipan. {LONG}")
    ingest(parts, kb, tmp_path)
    write(tmp_path, a=f"The code word is nougat. {kb.id} was never embedded before. {LONG}")
    run_id = started(parts, kb, tmp_path)
    run_stages(parts, run_id, *flow.STAGES[: flow.STAGES.index(stage)])
    owner = getattr(parts, part)
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, crashing(getattr(owner, step), before=before))
        with pytest.raises(Crash):
            run_stages(parts, run_id, stage)
    words = {word for text in found(parts, kb, "code word") for word in ("marzipan", "nougat") if word in text}
    assert len(words) == 1  # the old or the new one, never both and never none
    with pytest.raises(Busy) if (step, before) != ("record", False) else contextlib.nullcontext():
        run_stages(parts, run_id, stage)
    expire(parts, run_id)
    flow.run(run_id, parts)
    assert counts(parts, run_id) == {"done": 1}
    assert any("nougat" in text for text in live_texts(parts, kb))
    assert consistent(parts, kb)


class Interrupted:
    """A part; once, right before or after one of its methods works, something else happens."""

    def __init__(self, inner: object, method: str, meanwhile: Callable[[], object], *, before: bool) -> None:
        self._inner, self._method, self._meanwhile, self._before = inner, method, meanwhile, before
        self.was = False

    def __getattr__(self, name: str) -> object:
        found = getattr(self._inner, name)
        if name != self._method or self.was:
            return found

        def call(*arguments: object, **named: object) -> object:
            self.was = True
            if self._before:
                self._meanwhile()
            result = found(*arguments, **named)
            if not self._before:
                self._meanwhile()
            return result

        return call


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(("stage", "part", "step"), STEPS)
def test_who_is_taken_for_dead_and_wakes_up_at_any_step_does_no_harm(
    stage: IngestStage, part: str, step: str, before: bool, parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    """Given a worker that stands still until another has taken over and come to the end, when it goes on with what it
    was at, then what it records is refused, and what it writes changes nothing.
    """
    write(tmp_path, a=f"The code word is marzipan. {LONG}")
    ingest(parts, kb, tmp_path)
    write(tmp_path, a=f"The code word is nougat. {kb.id} was never embedded before. {LONG}")
    run_id = started(parts, kb, tmp_path)
    run_stages(parts, run_id, *flow.STAGES[: flow.STAGES.index(stage)])

    def take_over() -> None:
        expire(parts, run_id)
        flow.run(run_id, parts)

    slow = Interrupted(getattr(parts, part), step, take_over, before=before)
    asleep = LeaseKeeper(lambda _: None, every=3600)
    with pytest.raises(Cancelled) if (step, before) != ("record", False) else contextlib.nullcontext():
        run_stages(with_(parts, leases=asleep, **{part: slow}), run_id, stage)
    assert slow.was
    assert (parts.runs.find(run_id).status, counts(parts, run_id)) == ("done", {"done": 1})
    assert found(parts, kb, "nougat")
    assert not any("marzipan" in text for text in live_texts(parts, kb))
    assert consistent(parts, kb)


def test_two_deliveries_side_by_side_do_the_work_once(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    write(tmp_path, **{f"f{n}": f"Text {n} of {kb.id[:8]}." for n in range(12)})
    run_id = started(parts, kb, tmp_path)
    embedder = CountingEmbedder(parts)
    counting = with_(parts, embedder=embedder)

    def deliver(_: int) -> None:
        for stage in flow.STAGES:
            eventually(lambda stage=stage: is_past(stage))  # type: ignore[misc]

    def is_past(stage: IngestStage) -> bool:
        try:
            run_stages(counting, run_id, stage)
        except Busy:
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(deliver, range(3)))
    assert counts(parts, run_id) == {"done": 12}
    assert len(embedder.texts) == len(set(embedder.texts)) == 12
    progress = parts.runs.progress(run_id)
    assert (progress.chunks, progress.embedded) == (12, 12)
    assert consistent(parts, kb)


# --------------------------------------------------------------------------- two runs over one document


def test_two_runs_over_the_same_files_end_with_one_generation(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    """Given two runs side by side, whichever switches last, the newer generation stays and the other leaves nothing."""
    write(tmp_path, a=f"Version one. {LONG}")
    one = started(parts, kb, tmp_path)
    run_stages(parts, one, "parse", "chunk", "embed")
    write(tmp_path, a=f"Version two. {LONG}")
    two = started(parts, kb, tmp_path)
    run_stages(parts, two, *flow.STAGES)
    run_stages(parts, one, "upsert")
    for run_id in (one, two):
        flow.end(run_id, parts)
        assert counts(parts, run_id) == {"done": 1}
    assert any("Version two" in text for text in live_texts(parts, kb))
    assert consistent(parts, kb)


def test_what_is_written_after_a_newer_generation_went_live_is_taken_out_again(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    """The slower of two runs writes to the store when its generation has been done away with: no orphan may stay."""
    write(tmp_path, a="Owls hunt at night.")
    slow = started(parts, kb, tmp_path)
    run_stages(parts, slow, "parse", "chunk", "embed")
    write(tmp_path, a="Owls sleep by day.")

    class Overtaken:
        """The store; before it writes, another run goes all the way."""

        def upsert(self, *arguments: object, timeout: float) -> None:
            if not overtaken:
                overtaken.append(ingest(parts, kb, tmp_path))
            parts.store.upsert(*arguments, timeout=timeout)  # type: ignore[arg-type]

        def delete(self, *arguments: object, timeout: float) -> None:
            parts.store.delete(*arguments, timeout=timeout)  # type: ignore[arg-type]

    overtaken: list[str] = []
    run_stages(with_(parts, store=Overtaken()), slow, "upsert")
    assert overtaken
    assert live_texts(parts, kb) == ["Owls sleep by day."]
    assert stored_chunks(parts, kb) == live_chunks(parts, kb)


def test_a_draft_that_was_overtaken_before_it_was_cut_is_no_failure(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path, a="Owls hunt at night.")
    slow = started(parts, kb, tmp_path)
    run_stages(parts, slow, "parse")
    write(tmp_path, a="Owls sleep by day.")
    ingest(parts, kb, tmp_path)
    flow.run(slow, parts)
    assert counts(parts, slow) == {"unchanged": 1}
    assert live_texts(parts, kb) == ["Owls sleep by day."]


# --------------------------------------------------------------------------- documents that kill their worker


class Deadly:
    """A parser, and a chunker, of which a word in a text is the death."""

    WORD = "DEADLY"

    def __init__(self, inner: object) -> None:
        self._inner = inner
        self.seen: list[str] = []

    def parse(self, data: bytes, *arguments: object) -> ParsedDocument:
        self._look(data.decode())
        return self._inner.parse(data, *arguments)  # type: ignore[attr-defined,no-any-return]

    def chunk(self, document: ParsedDocument) -> list[Chunk]:
        self._look(document.text)
        return self._inner.chunk(document)  # type: ignore[attr-defined,no-any-return]

    def _look(self, text: str) -> None:
        self.seen.append(text[0])
        if self.WORD in text:
            raise Crash


def deaths_until_over(parts: Parts, run_id: str, crash: str = "") -> int:
    """Deliver until the run is over; how many workers that takes."""
    for deaths in range(100):
        try:
            flow.run(run_id, parts)
        except Crash:
            if crash:
                parts.batches.crashed(Batch(run_id=run_id, number=0), crash)
            expire(parts, run_id)
        else:
            return deaths
    raise AssertionError("it never ends")


@pytest.mark.parametrize("part", ["parser", "chunker"])
def test_a_document_that_kills_its_worker_is_found_out_and_takes_no_other_with_it(
    part: str, parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path, a="Albatross.", b="Bat, DEADLY.", c="Cat.", d="Dog.")
    run_id = started(parts, kb, tmp_path)
    deadly = Deadly(parts.parsers["text"] if part == "parser" else parts.chunker)
    replaced = {"parsers": {"text": deadly}} if part == "parser" else {"chunker": deadly}
    deaths = deaths_until_over(with_(parts, **replaced), run_id)
    assert deaths == 1 + parts.settings.max_crashes
    assert counts(parts, run_id) == {"done": 3, "failed": 1}
    (failure,) = parts.runs.failures(run_id)
    assert (Path(failure.document).name, failure.code) == ("b.txt", "InternalFault")
    assert failure.stage == ("parse" if part == "parser" else "chunk")
    assert failure.message == "Given up: 3 workers died while they had only this document."
    assert live_texts(parts, kb) == ["Albatross.", "Cat.", "Dog."]
    assert parts.runs.progress(run_id).chunks == 3, "nothing counts twice"
    if part == "parser":
        assert Counter(deadly.seen) == {"A": 2, "B": 1 + 3, "C": 1, "D": 1}, "what was read alone is not read again"
    assert consistent(parts, kb)


def test_what_is_known_of_the_last_death_is_in_the_message(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    write(tmp_path, b="Bat, DEADLY.")
    run_id = started(parts, kb, tmp_path)
    deadly = with_(parts, parsers={"text": Deadly(parts.parsers["text"])})
    deaths_until_over(deadly, run_id, "signal 11 (SIGSEGV)")
    (failure,) = parts.runs.failures(run_id)
    assert "(the last one: signal 11 (SIGSEGV))" in failure.message


@pytest.mark.parametrize("stage", flow.STAGES)
def test_documents_whose_worker_died_with_all_of_them_in_hand_are_never_given_up(
    stage: IngestStage, parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    """Whoever kills workers without end, it is no document's fault."""
    write(tmp_path, a="Albatross.", b="Bat.", c="Cat.")
    run_id = started(parts, kb, tmp_path)
    run_stages(parts, run_id, *flow.STAGES[: flow.STAGES.index(stage)])
    for number in range(12):  # each of them was alone twice, as chance will have it
        died(parts, run_id, stage, alone=number % 3 if number < 6 else None)
    flow.run(run_id, parts)
    assert counts(parts, run_id) == {"done": 3}
    assert parts.runs.progress(run_id).chunks == 3
    assert consistent(parts, kb)


@pytest.mark.parametrize("stage", ["embed", "upsert"])
def test_where_documents_seldom_kill_they_stay_together_for_the_first_deaths(
    stage: IngestStage, parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    """One call for each text of a batch, because a worker was restarted, would cost more than it saves."""
    write(tmp_path, **{f"f{n}": f"Text {n} of {kb.id[:8]}." for n in range(4)})
    run_id = started(parts, kb, tmp_path)
    run_stages(parts, run_id, *flow.STAGES[: flow.STAGES.index(stage)])
    for _ in range(parts.settings.max_crashes - 1):
        died(parts, run_id, stage)
    written = Counted(parts.batches)
    run_stages(with_(parts, batches=written), run_id, stage)
    assert written.records == 1
    assert "alone" not in written.calls


class Counted:
    """The ledger of batches, and what is asked of it."""

    def __init__(self, inner: object) -> None:
        self._inner = inner
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> object:
        self.calls.append(name)
        return getattr(self._inner, name)

    @property
    def records(self) -> int:
        return self.calls.count("record")


# --------------------------------------------------------------------------- cancelled, given up


@pytest.mark.parametrize("stage", flow.STAGES)
def test_a_run_that_was_cancelled_goes_no_further_and_goes_on_when_it_is_resumed(
    stage: IngestStage, parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path, a=f"Owls hunt at night {kb.id}.", b=f"{kb.id} {LONG}")
    run_id = started(parts, kb, tmp_path)
    run_stages(parts, run_id, *flow.STAGES[: flow.STAGES.index(stage)])
    assert parts.runs.cancel(run_id)
    embedder = CountingEmbedder(parts)
    run_stages(with_(parts, embedder=embedder), run_id, *flow.STAGES)
    assert flow.end(run_id, parts) == 0
    assert parts.runs.find(run_id).status == "cancelled"
    assert counts(parts, run_id) == {stage: 2}
    assert (embedder.texts, stored_chunks(parts, kb)) == ([], set())
    assert parts.runs.reopen(run_id) == 2
    flow.run(run_id, parts)
    assert (parts.runs.find(run_id).status, counts(parts, run_id)) == ("done", {"done": 2})
    assert consistent(parts, kb)


@pytest.mark.parametrize(("stage", "part", "step"), [(a, b, c) for a, b, c in STEPS if c != "record"])
def test_what_was_under_way_when_it_was_cancelled_is_ended_and_no_more(
    stage: IngestStage, part: str, step: str, parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path, a=f"The code word is marzipan. {LONG}")
    ingest(parts, kb, tmp_path)
    write(tmp_path, a=f"The code word is nougat. {kb.id} was never embedded before. {LONG}")
    run_id = started(parts, kb, tmp_path)
    run_stages(parts, run_id, *flow.STAGES[: flow.STAGES.index(stage)])
    inner = getattr(parts, part)
    during = Interrupted(inner, step, lambda: parts.runs.cancel(run_id), before=True)
    run_stages(with_(parts, **{part: during}), run_id, *flow.STAGES[flow.STAGES.index(stage) :])
    assert during.was
    following = (*flow.STAGES, "done")[flow.STAGES.index(stage) + 1]
    assert counts(parts, run_id) == {following: 1}
    if following != "done":
        parts.runs.reopen(run_id)
        flow.run(run_id, parts)
    assert counts(parts, run_id) == {"done": 1}
    assert consistent(parts, kb)


def test_a_batch_of_many_texts_stops_between_two_calls_and_keeps_what_was_paid_for(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.adapters.wordllama_embedder.PART_TEXTS", 2)
    write(tmp_path, **{f"f{n}": f"Text {n} of {kb.id[:8]}." for n in range(6)})
    run_id = started(parts, kb, tmp_path)
    run_stages(parts, run_id, "parse", "chunk")
    embedder = CountingEmbedder(parts)
    cancelling = Cancelling(embedder, lambda: parts.runs.cancel(run_id))
    with pytest.raises(Cancelled):
        run_stages(with_(parts, embedder=cancelling), run_id, "embed")
    assert len(embedder.texts) == 2
    parts.runs.reopen(run_id)
    flow.run(run_id, with_(parts, embedder=embedder))
    assert len(embedder.texts) == len(set(embedder.texts)) == 6
    assert counts(parts, run_id) == {"done": 6}


class Cancelling:
    """An embedder in whose first call the run is cancelled."""

    def __init__(self, inner: CountingEmbedder, cancel: Callable[[], object]) -> None:
        self._inner, self._cancel = inner, cancel
        self.model, self.dimensions = inner.model, inner.dimensions

    def embed_parts(self, texts: Sequence[str], *, timeout: float) -> Iterator[EmbeddedPart]:
        for part in self._inner.embed_parts(texts, timeout=timeout):
            self._cancel()
            yield part


def test_a_batch_that_is_given_up_ends_its_open_items_with_the_cause(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path, a="Owls hunt at night.", b=" ")
    run_id = started(parts, kb, tmp_path)
    run_stages(parts, run_id, "parse")
    flow.give_up("chunk", Batch(run_id=run_id, number=0), Unreachable("The model is down.", "Start it."), parts)
    flow.end(run_id, parts)
    causes = {Path(failure.document).name: failure.code for failure in parts.runs.failures(run_id)}
    assert causes == {"a.txt": "Unreachable", "b.txt": "ParseFailed"}
    assert counts(parts, run_id) == {"failed": 2}


def test_an_error_in_good_order_counts_as_no_attempt(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    """A service that is down for long must not make its documents look deadly."""
    write(tmp_path, a="A text that no other test embeds: the service is down when it is first asked.")
    run_id = started(parts, kb, tmp_path)
    run_stages(parts, run_id, "parse", "chunk")
    broken = Parts(parts.settings.model_copy(update={"embed_timeout": 1.0}))
    broken.__dict__["embedder"] = Unreached()
    with contextlib.closing(broken):
        for _ in range(5):
            with pytest.raises(Unreachable):
                run_stages(broken, run_id, "embed")
    run_stages(parts, run_id, "embed", "upsert")
    assert counts(parts, run_id) == {"done": 1}


class Unreached:
    """An embedding service that is down."""

    model, dimensions = "wordllama-256", 256

    def embed_parts(self, texts: Sequence[str], *, timeout: float) -> object:
        raise Unreachable("The service can't be reached.")


@pytest.mark.parametrize("built_with", [{"model": "text-embedding-3-small"}, {"store": "weaviate"}])
def test_a_worker_with_other_parts_than_the_knowledge_base_touches_nothing(
    built_with: dict[str, str], parts: Parts, tmp_path: Path
) -> None:
    """Vectors of its model, saved under the other's name, would spoil the cache for every knowledge base."""
    write(tmp_path, a="A text that nobody has embedded yet.")
    other = new_kb(parts, **built_with)
    run_id = started(parts, other, tmp_path)
    with pytest.raises(ModelMismatch):
        flow.run(run_id, parts)
    assert counts(parts, run_id) == {"parse": 1}


def test_of_a_run_whose_knowledge_base_was_deleted_nothing_is_left_to_do(
    parts: Parts, kb: KnowledgeBase, tmp_path: Path
) -> None:
    write(tmp_path, a="Owls hunt at night.")
    run_id = started(parts, kb, tmp_path)
    parts.knowledge_bases.delete(kb.id)
    run_stages(parts, run_id, *flow.STAGES)
    with pytest.raises(NotFound):
        flow.end(run_id, parts)
