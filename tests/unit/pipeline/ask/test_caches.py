"""What was answered before, over a real Redis and Postgres, in one process and in two."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.ask import flow
from pipeline.ask.question import new_question
from pipeline.errors import ServerFault
from pipeline.ingest.repair import repair
from pipeline.retrieve.embed import embed
from pipeline.types import Answer, AskOptions, AskState, KnowledgeBase, Question, Replay
from pipeline.wiring import Parts
from tests.installation import Pad, execute, ingest, migrated_parts, new_kb, scalars, with_, write

VOLGA = "Where does the river Volga flow?"
RIVERS = "The river Volga flows into the Caspian Sea."
TEXTS = {"owls": "Owls hunt at night and see in the dark.", "rivers": RIVERS}


@pytest.fixture(scope="module")
def parts(postgres_url: str, redis_url: str) -> Iterator[Parts]:
    found = migrated_parts(
        DATABASE_URL=postgres_url, REDIS_URL=redis_url, chunk_tokens=40, namespace=f"test-{uuid.uuid4().hex}"
    )
    yield found
    found.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "docs", **TEXTS)
    return tmp_path / "docs"


@pytest.fixture
def kb(parts: Parts, folder: Path) -> KnowledgeBase:
    """One of a tenant that no other test knows, since even vectors are a tenant's own."""
    kb = new_kb(parts, tenant=f"tenant-{uuid.uuid4().hex}")
    ingest(parts, kb, folder)
    return kb


def another_process(parts: Parts, **replaced: object) -> Parts:
    """The same services, and caches of its own."""
    others = {name: getattr(parts, name) for name in ("engine", "redis", "embedder", "cancellations")}
    fresh = Parts(parts.settings.model_copy(update=replaced))
    fresh.__dict__.update(others)
    return fresh


def asked(parts: Parts, kb: KnowledgeBase, text: str = VOLGA, **options: object) -> Question:
    question = new_question(
        text, parts.settings, kb=kb.name, tenant=kb.tenant, options=AskOptions.decode(options), timeout=20
    )
    parts.questions.submit(question)
    return question


def answered(parts: Parts, kb: KnowledgeBase, text: str = VOLGA, **options: object) -> Answer:
    return flow.run(asked(parts, kb, text, **options), parts, Pad())


def taken(answer: Answer) -> dict[str, str]:
    """What came from a cache, by the stage that makes it, and from which level."""
    return {timing.stage: timing.cached for timing in answer.timings if timing.cached}


class TestLevels:
    def test_the_second_time_an_answer_is_there(self, parts: Parts, kb: KnowledgeBase) -> None:
        first = answered(parts, kb)
        pad, question = Pad(), asked(parts, kb, "  Where does the river\tVolga flow?")
        second = flow.run(question, parts, pad)
        assert (taken(first), taken(second)) == ({}, {"generate": "memory"})
        assert [timing.stage for timing in second.timings] == ["guard", "generate", "record"]
        own = {"question_id": question.id, "timings": second.timings, "usage": second.usage}
        assert second == first.model_copy(update=own)
        assert (second.usage.input_tokens, second.usage.embedding_tokens, second.usage.cost_usd) == (0, 0, 0.0)
        assert "".join(pad.pieces) == first.text
        assert parts.questions.answer(question.id) is not None

    def test_another_process_has_it_from_redis_and_then_itself(self, parts: Parts, kb: KnowledgeBase) -> None:
        answered(parts, kb)
        other = another_process(parts)
        assert taken(answered(other, kb)) == {"generate": "redis"}
        assert taken(answered(other, kb)) == {"generate": "memory"}

    def test_what_redis_has_forgotten_is_in_postgres(self, parts: Parts, kb: KnowledgeBase) -> None:
        first = answered(parts, kb)
        parts.redis.delete(*parts.redis.scan_iter(f"{parts.settings.namespace}:cache:*"))
        second = answered(another_process(parts), kb)
        assert taken(second) == {"generate": "postgres"}
        assert (second.text, second.citations) == (first.text, first.citations)
        assert taken(answered(another_process(parts), kb)) == {"generate": "redis"}

    def test_without_redis_there_are_two_levels(self, parts: Parts, kb: KnowledgeBase) -> None:
        alone = another_process(parts, redis_url=None)
        answered(alone, kb)
        assert taken(answered(alone, kb)) == {"generate": "memory"}
        assert taken(answered(another_process(alone), kb)) == {"generate": "postgres"}

    def test_a_level_that_can_not_be_reached_is_as_if_empty(self, parts: Parts, kb: KnowledgeBase) -> None:
        deaf = migrated_parts(DATABASE_URL=parts.database_url, REDIS_URL="redis://127.0.0.1:1/0", cache_stored_ttl=0)
        assert taken(answered(deaf, kb)) == {}
        assert taken(answered(deaf, kb)) == {"generate": "memory"}
        deaf.close()

    @pytest.mark.parametrize("level", ["redis", "postgres"])
    def test_another_answer_from_the_same_passages_needs_no_search(
        self, parts: Parts, kb: KnowledgeBase, level: str
    ) -> None:
        first = answered(parts, kb)
        if level == "postgres":
            parts.redis.delete(*parts.redis.scan_iter(f"{parts.settings.namespace}:cache:*"))
        other = answered(another_process(parts), kb, model="another")
        assert taken(other) == {"search": level}
        assert [timing.stage for timing in other.timings] == ["guard", "search", "generate", "record"]
        assert other.passages == first.passages

    @pytest.mark.parametrize("level", ["memory", "redis", "postgres"])
    def test_a_vector_is_embedded_once_for_all_searches(self, parts: Parts, kb: KnowledgeBase, level: str) -> None:
        answered(parts, kb)
        parts.caches.flush()
        if level == "postgres":
            parts.redis.delete(*parts.redis.scan_iter(f"{parts.settings.namespace}:cache:*"))
        process = parts if level == "memory" else another_process(parts)
        other = answered(process, kb, top_k=2)
        assert taken(other) == {"embed": level}
        assert [timing.stage for timing in other.timings] == [
            "guard",
            "embed",
            "search",
            "enrich",
            "generate",
            "record",
        ]
        plain = embed(AskState(question=asked(parts, kb)), embedder=parts.embedder, timeout=5).vector
        packed = scalars(parts, "SELECT encode(vector, 'base64') FROM question_vectors")
        assert {plain} == {one.replace("\n", "") for one in packed}

    def test_vectors_that_nobody_will_use_are_dropped(self, parts: Parts, kb: KnowledgeBase) -> None:
        answered(parts, kb)
        parts.caches.flush()
        execute(parts, "UPDATE question_vectors SET created_at = now() - interval '2 days'")
        assert parts.question_cache.prune(86_400) >= 1
        assert scalars(parts, "SELECT key::text FROM question_vectors") == []


class TestNeverStale:
    """Whatever changes what a question can find makes all that was kept worthless."""

    def changes(self, parts: Parts, kb: KnowledgeBase, change: Callable[[], object]) -> Answer:
        answered(parts, kb)
        assert taken(answered(parts, kb))
        change()
        answer = answered(parts, kb)
        assert "generate" not in taken(answer)
        assert "search" not in taken(answer)
        return answer

    def test_a_changed_document(self, parts: Parts, kb: KnowledgeBase, folder: Path) -> None:
        write(folder, rivers="The river Volga flows into the Black Sea.")
        assert "Black Sea" in self.changes(parts, kb, lambda: ingest(parts, kb, folder)).text

    def test_a_new_document(self, parts: Parts, kb: KnowledgeBase, folder: Path) -> None:
        write(folder, more="The river Volga flows through Kazan.")
        assert "Kazan" in self.changes(parts, kb, lambda: ingest(parts, kb, folder)).text

    def test_a_document_that_is_pruned(self, parts: Parts, kb: KnowledgeBase, folder: Path) -> None:
        (folder / "rivers.txt").unlink()
        answer = self.changes(parts, kb, lambda: ingest(parts, kb, folder, prune=True))
        assert "Caspian" not in answer.text

    def test_a_document_that_is_hidden(self, parts: Parts, kb: KnowledgeBase) -> None:
        (rivers,) = scalars(parts, "SELECT id::text FROM documents WHERE kb_id = :kb AND key LIKE '%rivers%'", kb=kb.id)
        assert "Caspian" not in self.changes(parts, kb, lambda: parts.documents.hide([rivers])).text

    def test_a_store_that_is_repaired(self, parts: Parts, kb: KnowledgeBase) -> None:
        chunks = list(parts.store.chunk_ids(kb.index, timeout=10))

        def lose_and_repair() -> None:
            parts.store.delete(kb.index, chunks, timeout=10)
            services = {"ledger": parts.inspection, "store": parts.store, "cache": parts.embeddings}
            repair(
                kb,
                **services,  # type: ignore[arg-type]
                embedder=parts.embedder,
                knowledge_bases=parts.knowledge_bases,
                timeout=10,
                embed_timeout=10,
            )

        self.changes(parts, kb, lose_and_repair)

    def test_an_ingest_that_changes_nothing_leaves_it_all(self, parts: Parts, kb: KnowledgeBase, folder: Path) -> None:
        answered(parts, kb)
        ingest(parts, kb, folder)
        assert taken(answered(parts, kb)) == {"generate": "memory"}

    def test_a_knowledge_base_of_the_same_name_of_another_tenant(
        self, parts: Parts, kb: KnowledgeBase, folder: Path
    ) -> None:
        answered(parts, kb)
        other = new_kb(parts, kb.name, tenant=f"tenant-{uuid.uuid4().hex}")
        ingest(parts, other, folder)
        assert taken(answered(parts, other)) == {}

    def test_a_setting(self, parts: Parts, kb: KnowledgeBase) -> None:
        answered(parts, kb)
        assert taken(answered(another_process(parts, min_score=0.19), kb)).keys() <= {"embed"}

    def test_time(self, parts: Parts, kb: KnowledgeBase) -> None:
        brief = another_process(parts, cache_ttl=1.0, cache_stored_ttl=0.5)
        answered(brief, kb)
        time.sleep(1.05)
        assert taken(answered(brief, kb)) == {}


class TestNotKept:
    def test_who_asks_for_none_is_given_none_and_leaves_none(self, parts: Parts, kb: KnowledgeBase) -> None:
        answered(parts, kb, cache=False)
        assert taken(answered(parts, kb)) == {}
        assert taken(answered(parts, kb, cache=False)) == {}
        off = another_process(parts, cache=False)
        assert taken(answered(off, kb)) == {}
        assert taken(answered(off, kb, cache=True)) == {"generate": "redis"}

    def test_a_replay_is_made_anew(self, parts: Parts, kb: KnowledgeBase) -> None:
        first = answered(parts, kb)
        again = asked(parts, kb).model_copy(update={"replay": Replay(of=first.question_id, stage="guard")})
        assert taken(flow.run(again, parts, Pad())) == {}

    def test_a_search_looks_anew(self, parts: Parts, kb: KnowledgeBase) -> None:
        answered(parts, kb)
        assert not any(timing.cached for timing in flow.retrieve(asked(parts, kb), parts).timings)

    def test_a_lesser_answer_is_given_once(self, parts: Parts, kb: KnowledgeBase) -> None:
        down = with_(parts, embedder=Down())
        assert [loss.mode for loss in answered(down, kb).degraded] == ["keyword_only"]
        assert taken(answered(parts, kb)) == {}

    def test_what_is_not_known_is_kept_too(self, parts: Parts, kb: KnowledgeBase) -> None:
        first = answered(parts, kb, "Who composed the opera Turandot?", min_score=0.9)
        second = answered(parts, kb, "Who composed the opera Turandot?", min_score=0.9)
        assert (first.outcome, second.outcome) == ("not_in_knowledge_base", "not_in_knowledge_base")
        assert taken(second) == {"generate": "memory"}

    def test_an_answer_from_a_cache_is_not_kept_as_a_new_one(self, parts: Parts, kb: KnowledgeBase) -> None:
        answered(parts, kb)
        second = answered(parts, kb)
        kept = scalars(parts, "SELECT answer_key::text FROM questions WHERE id = :id", id=second.question_id)
        assert kept == [None]


class TestTheStoreIsDown:
    """The last of the degraded modes: an answer of before."""

    def test_the_last_answer_is_given_with_a_word_on_its_age(
        self, parts: Parts, kb: KnowledgeBase, folder: Path
    ) -> None:
        first = answered(parts, kb)
        write(folder, more="Bread rises slowly.")
        ingest(parts, kb, folder)
        answer = answered(with_(parts, retriever=Down()), kb)
        (loss,) = answer.degraded
        assert (answer.text, answer.mode, loss.mode, loss.stage) == (first.text, first.mode, "cached", "search")
        assert loss.reason.startswith("It is down. This is the answer of 20")
        assert (answer.usage.embedding_tokens, answer.usage.cost_usd) == (0, 0.0), "the first one has paid"
        assert [timing.stage for timing in answer.timings if not timing.cached] == ["guard", "search", "record"]
        assert taken(answered(parts, kb)) == {"embed": "memory"}

    def test_a_question_that_was_never_answered_fails(self, parts: Parts, kb: KnowledgeBase) -> None:
        with pytest.raises(ServerFault):
            answered(with_(parts, retriever=Down()), kb, "What do owls do at night?")

    def test_who_wants_no_lesser_answer_is_told_the_cause(self, parts: Parts, kb: KnowledgeBase, folder: Path) -> None:
        answered(parts, kb)
        write(folder, more="Bread rises slowly.")
        ingest(parts, kb, folder)
        with pytest.raises(ServerFault):
            answered(with_(parts, retriever=Down()), kb, strict=True)


def test_what_was_found_is_counted_by_level(parts: Parts, kb: KnowledgeBase) -> None:
    parts.caches.flush()
    before = parts.redis_cache.counts()
    other = another_process(parts)
    for process in (parts, parts, other):
        answered(process, kb)
        process.caches.flush()
    after = parts.redis_cache.counts()
    new = {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}
    assert new.pop("vector:memory", 0) + new.pop("vector:redis", 0) + new.pop("vector:miss", 0) == 1
    assert new == {"answer:miss": 1, "retrieval:miss": 1, "answer:memory": 1, "answer:redis": 1}
    for key in parts.redis.scan_iter(f"{parts.settings.namespace}:*"):
        assert parts.redis.pttl(key) != -1, key  # -2: it has come to its end meanwhile


class Down:
    """A service that answers nothing but errors."""

    model, dimensions = "wordllama-256", 256

    def _fail(self, *_: object, **__: object) -> None:
        raise ServerFault("It is down.")

    embed = vector_search = keyword_search = _fail
