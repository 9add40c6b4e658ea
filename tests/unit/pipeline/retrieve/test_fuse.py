from __future__ import annotations

import math
import random

import pytest

from pipeline.retrieve.fuse import defaults_of, fuse, half_score
from pipeline.types import Fusion, Hit, ScoredChunk

CHUNKS = 1000
HALF = 1.5 * math.log(1 + 999.5 / 1.5)


def hits(**scores: float) -> list[Hit]:
    return [Hit(chunk_id=name, score=score) for name, score in scores.items()]


def fused(
    vector: list[Hit], keyword: list[Hit], alpha: float, method: Fusion = "scores", limit: int = 10
) -> tuple[ScoredChunk, ...]:
    return fuse(vector, keyword, alpha=alpha, method=method, limit=limit, chunks=CHUNKS)


def scores(found: tuple[ScoredChunk, ...]) -> dict[str, float]:
    return {chunk.chunk_id: chunk.score for chunk in found}


def random_branch(chance: random.Random, size: int, low: float, high: float) -> list[Hit]:
    found = [Hit(chunk_id=f"c{n}", score=chance.uniform(low, high)) for n in chance.sample(range(40), size)]
    return sorted(found, key=lambda hit: -hit.score)


def test_a_score_is_the_weighted_sum_of_cosine_and_saturated_bm25() -> None:
    """By hand: half = 1.5 · ln(1 + 999.5 / 1.5) = 9.755; k = 9 / (9 + 9.755) = .4799; .3 · .8 + .7 · .4799 = .5759."""
    assert half_score(CHUNKS) == pytest.approx(9.7549, abs=1e-4)
    assert scores(fused(hits(a=0.8), hits(a=9.0), 0.3)) == {"a": pytest.approx(0.5759, abs=1e-4)}


def test_the_scores_of_the_branches_ride_along_and_none_stands_for_unseen() -> None:
    a, b, c = sorted(fused(hits(a=0.8, b=0.4), hits(a=9.0, c=3.0), 0.5), key=lambda chunk: chunk.chunk_id)
    assert (a.vector_score, a.keyword_score) == (0.8, 9.0)
    assert (b.vector_score, b.keyword_score) == (0.4, None)
    assert (c.vector_score, c.keyword_score) == (None, 3.0)


def test_a_chunk_that_a_short_list_left_out_scores_zero_there() -> None:
    found = scores(fused(hits(a=0.8), hits(b=HALF), 0.4))
    assert found == {"a": pytest.approx(0.4 * 0.8), "b": pytest.approx(0.6 * 0.5)}


def test_a_chunk_that_a_full_list_cut_off_scores_as_its_last() -> None:
    """It may score anything up to that; zero would punish it for the length of the list."""
    found = scores(fused(hits(a=0.9, b=0.7), hits(c=HALF), 0.4, limit=2))
    assert found["c"] == pytest.approx(0.4 * 0.7 + 0.6 * 0.5)


def test_a_negative_cosine_counts_as_none_at_all() -> None:
    assert scores(fused(hits(a=-0.5), hits(a=HALF), 0.5)) == {"a": pytest.approx(0.25)}


@pytest.mark.parametrize("method", ["scores", "rrf"])
def test_alpha_1_is_the_order_of_vectors_and_alpha_0_that_of_keywords(method: Fusion) -> None:
    vector, keyword = hits(a=0.9, b=0.5, c=0.1), hits(c=9.0, b=5.0, a=1.0)
    assert list(scores(fused(vector, keyword, 1.0, method))) == ["a", "b", "c"]
    assert list(scores(fused(vector, keyword, 0.0, method))) == ["c", "b", "a"]


def test_reciprocal_ranks_by_hand() -> None:
    """First of both: 61 · (.3/61 + .7/61) = 1. Second by vector, third by keyword: 61 · (.3/62 + .7/63) = .97293."""
    found = scores(fused(hits(a=0.9, b=0.8, d=0.1), hits(a=7.0, c=6.0, b=5.0), 0.3, "rrf"))
    assert found["a"] == pytest.approx(1.0)
    assert found["b"] == pytest.approx(0.97293, abs=1e-5)
    assert found["c"] == pytest.approx(61 * 0.7 / 62)
    assert found["d"] == pytest.approx(61 * 0.3 / 63)


@pytest.mark.parametrize("method", ["scores", "rrf"])
def test_equal_scores_are_in_the_order_of_ids_whatever_order_they_came_in(method: Fusion) -> None:
    same = [Hit(chunk_id=name, score=0.5) for name in "bca"]
    assert [chunk.chunk_id for chunk in fused(same, [], 1.0, "scores")] == ["a", "b", "c"]
    one, other = hits(b=0.5), hits(a=HALF)
    assert list(scores(fused(one, other, 0.5, method))) == ["a", "b"]


@pytest.mark.parametrize("method", ["scores", "rrf"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_fused_scores_lie_in_0_to_1_best_first_and_at_most_limit(method: Fusion, alpha: float) -> None:
    chance = random.Random(7)
    for limit in (1, 5, 20):
        for _ in range(30):
            vector = random_branch(chance, chance.randint(0, limit), -1.0, 1.0)
            keyword = random_branch(chance, chance.randint(0, limit), 1e-3, 80.0)
            found = fused(vector, keyword, alpha, method, limit)
            order = [chunk.score for chunk in found]
            assert order == sorted(order, reverse=True)
            assert all(0.0 <= score <= 1.0 for score in order)
            union = {hit.chunk_id for hit in (*vector, *keyword)}
            assert len(found) == min(limit, len(union))
            assert {chunk.chunk_id for chunk in found} <= union


@pytest.mark.parametrize("branch", ["vector", "keyword"])
def test_a_better_score_in_a_branch_never_makes_a_chunk_worse(branch: str) -> None:
    chance = random.Random(11)
    for _ in range(100):
        vector, keyword = random_branch(chance, 12, 0.0, 0.95), random_branch(chance, 12, 0.1, 30.0)
        chosen = chance.choice(vector if branch == "vector" else keyword).chunk_id
        before = scores(fused(vector, keyword, 0.4, limit=24))
        raised = [
            hit._replace(score=hit.score * 1.05) if hit.chunk_id == chosen else hit
            for hit in (vector if branch == "vector" else keyword)
        ]
        pair = (raised, keyword) if branch == "vector" else (vector, raised)
        after = scores(fused(*pair, 0.4, limit=24))
        assert after[chosen] > before[chosen]


def test_the_same_evidence_counts_the_same_in_a_small_and_in_a_large_knowledge_base() -> None:
    """One rare word's BM25 grows with ln N; saturated by the same measure its share stays."""
    for size in (10, 1000, 100_000, 10_000_000):
        rare_word = math.log(1 + (size - 0.5) / 1.5)
        found = fuse([], hits(a=rare_word), alpha=0.0, method="scores", limit=5, chunks=size)
        assert found[0].score == pytest.approx(0.4)


@pytest.mark.parametrize("chunks", [0, 1])
def test_even_a_knowledge_base_of_one_chunk_has_a_positive_measure(chunks: int) -> None:
    assert half_score(chunks) > 0
    found = fuse([], hits(a=0.2), alpha=0.0, method="scores", limit=5, chunks=chunks)
    assert 0 < found[0].score < 1


def test_nothing_found_is_nothing_fused() -> None:
    assert fused([], [], 0.5) == fused([], [], 0.5, "rrf") == ()


def test_a_weak_model_of_vectors_is_trusted_less_than_an_unknown_one() -> None:
    assert defaults_of("wordllama-256").alpha < defaults_of("text-embedding-3-small").alpha
    assert defaults_of("never heard of") == defaults_of("text-embedding-3-small")
