"""The stages of retrieval over a knowledge base that is really there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.ask.question import new_question
from pipeline.errors import ModelMismatch, ServerFault, TimedOut
from pipeline.prices import Price
from pipeline.retrieve.embed import embed
from pipeline.retrieve.enrich import enrich
from pipeline.retrieve.rerank import rerank
from pipeline.retrieve.search import search
from pipeline.seams import Embeddings
from pipeline.types import AskOptions, AskState, Hit, IndexRef, KnowledgeBase, Passage, ScoredChunk, Usage, Vector
from pipeline.wiring import Parts
from tests.installation import CountingEmbedder, ingest, live_chunks, new_kb, write

TEXTS = {
    "owls": "Owls hunt at night and see in the dark.",
    "bread": "Sourdough bread rises slowly overnight.",
    "rivers": "The river Volga flows into the Caspian Sea.",
    "night": "Night trains cross the border at dawn.",
}


@pytest.fixture(scope="module")
def filled(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBase:
    folder = tmp_path_factory.mktemp("animals")
    write(folder, **TEXTS)
    kb = new_kb(parts)
    ingest(parts, kb, folder)
    return parts.knowledge_bases.find(kb.tenant, kb.name)


def asked(parts: Parts, kb: KnowledgeBase, text: str = "What do owls do at night?", **options: object) -> AskState:
    question = new_question(text, parts.settings, kb=kb.name, options=AskOptions.decode(options))
    return AskState(question=question, kb=kb)


def searched(parts: Parts, state: AskState, **changes: object) -> AskState:
    arguments: dict[str, object] = {"retriever": parts.store, "candidates": 50, "alpha": None, "timeout": 10}
    return search(embed(state, embedder=parts.embedder, timeout=10), **(arguments | changes))  # type: ignore[arg-type]


class Spy:
    """The real store, and which branches were asked for how much."""

    def __init__(self, parts: Parts) -> None:
        self._inner = parts.store
        self.asked: dict[str, int] = {}

    def vector_search(self, index: IndexRef, vector: Vector, limit: int, *, timeout: float) -> list[Hit]:
        self.asked["vector"] = limit
        return self._inner.vector_search(index, vector, limit, timeout=timeout)

    def keyword_search(self, index: IndexRef, text: str, limit: int, *, timeout: float) -> list[Hit]:
        self.asked["keyword"] = limit
        return self._inner.keyword_search(index, text, limit, timeout=timeout)


class Down(Spy):
    """A store of which one branch fails."""

    def keyword_search(self, index: IndexRef, text: str, limit: int, *, timeout: float) -> list[Hit]:
        raise TimedOut("The store gave no answer.")


class Reversing:
    """A reranker that likes the last best, and keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[Passage] = []

    def rerank(self, question: str, passages: Sequence[Passage], *, timeout: float) -> Sequence[Passage]:
        self.shown = list(passages)
        return list(reversed(passages))


# --------------------------------------------------------------------------- embed


def test_embed_gives_the_vector_that_the_model_gives(parts: Parts, filled: KnowledgeBase) -> None:
    state = embed(asked(parts, filled), embedder=parts.embedder, timeout=10)
    hits = searched(parts, state, alpha=1.0).hits
    assert state.vector is not None
    assert hits[0].vector_score == pytest.approx(hits[0].score)


class Billed(CountingEmbedder):
    """The real embedder, which bills a thousand tokens for whatever it embeds."""

    def embed(self, texts: Sequence[str], *, timeout: float) -> Embeddings:
        return super().embed(texts, timeout=timeout).model_copy(update={"tokens": 1000})


@pytest.mark.parametrize(("price", "usd"), [((3.0, 0.0), 0.003), (None, 0.0)])
def test_what_embedding_cost_is_added_where_its_price_is_known(
    parts: Parts, filled: KnowledgeBase, price: Price | None, usd: float
) -> None:
    embedder = Billed(parts)
    prices = {embedder.model: price} if price else {}
    before = asked(parts, filled).but(spent=Usage(model="m", input_tokens=7, cost_usd=0.5))
    after = embed(before, embedder=embedder, timeout=10, prices=prices)
    assert after.spent == Usage(model="m", input_tokens=7, embedding_tokens=1000, cost_usd=0.5 + usd)


def test_a_question_of_keywords_alone_is_not_embedded(parts: Parts, filled: KnowledgeBase) -> None:
    embedder = CountingEmbedder(parts)
    state = embed(asked(parts, filled, alpha=0.0), embedder=embedder, timeout=10)
    assert state.vector is None
    assert embedder.texts == []


def test_vectors_of_another_size_than_the_knowledge_base_has_are_refused(parts: Parts, filled: KnowledgeBase) -> None:
    other = asked(parts, filled.model_copy(update={"dimensions": 64}))
    with pytest.raises(ModelMismatch, match=r"256 dimensions.*64") as refusal:
        embed(other, embedder=parts.embedder, timeout=10)
    assert "CELERIAC_EMBEDDING_DIMENSIONS" in refusal.value.hint


# --------------------------------------------------------------------------- search


def test_search_finds_by_word_and_by_meaning_and_drops_the_vector(parts: Parts, filled: KnowledgeBase) -> None:
    state = searched(parts, asked(parts, filled))
    assert state.vector is None
    assert len(state.hits) == len(TEXTS)  # the vector branch ranks them all
    assert parts.passages.texts(filled.id, [state.hits[0].chunk_id]) == {state.hits[0].chunk_id: TEXTS["owls"]}
    assert state.hits[0].keyword_score is not None


class Starting(Spy):
    """A store that answers, and doesn't know yet what it holds."""

    def vector_search(self, index: IndexRef, vector: Vector, limit: int, *, timeout: float) -> list[Hit]:
        return []

    keyword_search = vector_search  # type: ignore[assignment]


def test_a_store_without_its_data_is_a_fault_and_not_an_answer(parts: Parts, filled: KnowledgeBase) -> None:
    with pytest.raises(ServerFault, match="none of the 4 chunks") as fault:
        searched(parts, asked(parts, filled), retriever=Starting(parts))
    assert fault.value.retryable
    empty = filled.model_copy(update={"chunks": 0})
    assert searched(parts, asked(parts, empty), retriever=Starting(parts)).hits == ()


@pytest.mark.parametrize(("alpha", "branches"), [(0.0, {"keyword"}), (1.0, {"vector"}), (0.5, {"vector", "keyword"})])
def test_a_branch_without_weight_is_not_asked(
    parts: Parts, filled: KnowledgeBase, alpha: float, branches: set[str]
) -> None:
    spy = Spy(parts)
    searched(parts, asked(parts, filled, alpha=alpha), retriever=spy)
    assert set(spy.asked) == branches


def test_the_question_decides_the_weight_then_the_setting_then_the_model(parts: Parts, filled: KnowledgeBase) -> None:
    spy = Spy(parts)
    searched(parts, asked(parts, filled, alpha=1.0), retriever=spy, alpha=0.0)
    assert set(spy.asked) == {"vector"}
    spy = Spy(parts)
    searched(parts, asked(parts, filled), retriever=spy, alpha=0.0)
    assert set(spy.asked) == {"keyword"}
    by_model = searched(parts, asked(parts, filled)).hits
    assert by_model == searched(parts, asked(parts, filled), alpha=0.3).hits


def test_branches_are_asked_for_enough_to_fill_the_answer(parts: Parts, filled: KnowledgeBase) -> None:
    spy = Spy(parts)
    state = searched(parts, asked(parts, filled, top_k=40), retriever=spy, candidates=3)
    assert spy.asked == {"vector": 80, "keyword": 80}
    spy = Spy(parts)
    state = searched(parts, asked(parts, filled, top_k=1), retriever=spy, candidates=3)
    assert spy.asked == {"vector": 3, "keyword": 3}
    assert len(state.hits) == 3


def test_a_branch_that_fails_fails_the_stage_with_its_own_error(parts: Parts, filled: KnowledgeBase) -> None:
    with pytest.raises(TimedOut, match="The store gave no answer"):
        searched(parts, asked(parts, filled), retriever=Down(parts))


def test_nothing_of_another_knowledge_base_is_found(parts: Parts, filled: KnowledgeBase, tmp_path: Path) -> None:
    write(tmp_path, secret="Owls hunt at night, says the other tenant.")
    other = new_kb(parts, tenant="other")
    ingest(parts, other, tmp_path)
    found = {hit.chunk_id for hit in searched(parts, asked(parts, filled)).hits}
    assert found == live_chunks(parts, filled)
    stolen = searched(parts, asked(parts, other)).hits
    assert enrich(asked(parts, filled).but(hits=stolen), passages=parts.passages, min_score=0, depth=1).passages == ()


# --------------------------------------------------------------------------- enrich


def enriched(parts: Parts, state: AskState, min_score: float | None = None, depth: int = 1) -> AskState:
    return enrich(state, passages=parts.passages, min_score=min_score, depth=depth)


def test_enrich_gives_each_hit_its_place_and_keeps_its_scores(parts: Parts, filled: KnowledgeBase) -> None:
    state = searched(parts, asked(parts, filled))
    first = enriched(parts, state).passages[0]
    assert Path(first.source).name == "owls.txt"
    assert first.title == "owls"
    assert (first.start, first.end) == (0, len(TEXTS["owls"]))
    assert first.text == ""
    hit = state.hits[0]
    assert (first.score, first.vector_score, first.keyword_score) == (hit.score, hit.vector_score, hit.keyword_score)


def test_the_threshold_is_the_questions_then_the_settings_then_the_models(parts: Parts, filled: KnowledgeBase) -> None:
    plain = searched(parts, asked(parts, filled))
    everything = enriched(parts, searched(parts, asked(parts, filled, min_score=0.0)), min_score=1.0).passages
    assert len(everything) == len(TEXTS)
    assert enriched(parts, plain, min_score=1.0).passages == ()
    assert [p.chunk_id for p in enriched(parts, plain).passages] == [h.chunk_id for h in plain.hits if h.score >= 0.2]


def test_a_score_just_at_the_threshold_is_good_enough(parts: Parts, filled: KnowledgeBase) -> None:
    chunk = min(live_chunks(parts, filled))
    state = asked(parts, filled, min_score=0.25).but(hits=(ScoredChunk(chunk_id=chunk, score=0.25),))
    assert len(enriched(parts, state).passages) == 1


def test_it_keeps_as_many_as_the_reranker_may_choose_from(parts: Parts, filled: KnowledgeBase) -> None:
    state = searched(parts, asked(parts, filled, top_k=1, min_score=0.0))
    assert len(enriched(parts, state, depth=1).passages) == 1
    assert len(enriched(parts, state, depth=3).passages) == 3


def test_chunks_that_are_not_live_are_no_passages(parts: Parts, filled: KnowledgeBase) -> None:
    ghost = "00000000-0000-0000-0000-000000000000"
    real = min(live_chunks(parts, filled))
    hits = (ScoredChunk(chunk_id=ghost, score=0.9), ScoredChunk(chunk_id=real, score=0.8))
    assert [p.chunk_id for p in enriched(parts, asked(parts, filled).but(hits=hits)).passages] == [real]


# --------------------------------------------------------------------------- rerank


def test_without_a_reranker_the_fused_order_stands(parts: Parts, filled: KnowledgeBase) -> None:
    state = enriched(parts, searched(parts, asked(parts, filled, top_k=2, min_score=0.0)), depth=4)
    assert rerank(state, reranker=None, texts=parts.passages, timeout=10).passages == state.passages[:2]


def test_a_reranker_sees_full_texts_and_has_the_last_word(parts: Parts, filled: KnowledgeBase) -> None:
    state = enriched(parts, searched(parts, asked(parts, filled, top_k=2, min_score=0.0)), depth=4)
    reranker = Reversing()
    after = rerank(state, reranker=reranker, texts=parts.passages, timeout=10)
    assert {passage.text for passage in reranker.shown} == set(TEXTS.values())
    assert [p.chunk_id for p in after.passages] == [p.chunk_id for p in reversed(state.passages)][:2]
    assert all(passage.text == "" for passage in after.passages)  # texts do not ride in messages


def test_a_passage_that_vanished_meanwhile_is_not_shown(parts: Parts, filled: KnowledgeBase) -> None:
    state = enriched(parts, searched(parts, asked(parts, filled, min_score=0.0)), depth=4)
    gone = state.passages[0].model_copy(update={"chunk_id": "00000000-0000-0000-0000-000000000000"})
    after = rerank(state.but(passages=(gone, *state.passages)), reranker=Reversing(), texts=parts.passages, timeout=10)
    assert gone.chunk_id not in {passage.chunk_id for passage in after.passages}


def test_one_passage_needs_no_order(parts: Parts, filled: KnowledgeBase) -> None:
    state = enriched(parts, searched(parts, asked(parts, filled, top_k=1)))
    reranker = Reversing()
    assert rerank(state, reranker=reranker, texts=parts.passages, timeout=10).passages == state.passages
    assert reranker.shown == []


def test_stages_out_of_order_are_a_defect(parts: Parts, filled: KnowledgeBase) -> None:
    state = asked(parts, filled).but(kb=None, vector=None)
    with pytest.raises(ValueError, match="guard"):
        search(state, retriever=parts.store, candidates=5, alpha=None, timeout=1)
    with pytest.raises(ValueError, match="guard"):
        enriched(parts, state)


def test_a_state_stays_small_on_its_way(parts: Parts, filled: KnowledgeBase) -> None:
    """A query's vector is a quarter of its size as JSON numbers, and rides no further than search."""
    embedded = embed(asked(parts, filled), embedder=parts.embedder, timeout=10)
    assert len(str(embedded.vector)) == 4 * -(-256 * np.dtype("<f4").itemsize // 3)
    after = searched(parts, asked(parts, filled))
    assert "vector" not in after.encode()
