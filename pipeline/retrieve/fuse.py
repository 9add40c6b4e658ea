"""Two ranked lists made one.

``scores``: score = alpha · v + (1 - alpha) · k with v = max(cosine, 0) and k = bm25 / (bm25 + h), both in [0, 1)
and independent of what else was found; h = 1.5 · ln(1 + (N - 0.5) / 1.5) is the weight of one and a half words that
occur once among the N chunks, so that a score means the same in a small and in a large knowledge base. A convex
combination of scores beats rank fusion (Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval",
ACM TOIS 2023); we use a saturating curve where they divide by the best score of the query, because a score that always
ends at 1 could not tell "nothing here is relevant", and ``min_score`` would mean nothing. docs/retrieval.md has the
measurements.

``rrf``: reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009) with the same weights,
score = 61 · (alpha / (60 + vector rank) + (1 - alpha) / (60 + keyword rank)), so that it too lies in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from pipeline.types import Fusion, Hit, ScoredChunk

# Minus the score, the chunk, and the score of each branch: the order is that of the first two.
_Ranked = tuple[float, str, float | None, float | None]

_RARE_WORDS = 1.5
_RRF_K = 60


@dataclass(frozen=True)
class ModelDefaults:
    """How far an embedding model can be trusted: weight of its branch, and the score below which nothing counts."""

    alpha: float
    min_score: float


_BY_MODEL: Mapping[str, ModelDefaults] = {"wordllama-256": ModelDefaults(alpha=0.3, min_score=0.2)}
_OTHERS = ModelDefaults(alpha=0.5, min_score=0.2)


def defaults_of(model: str) -> ModelDefaults:
    """The defaults of an embedding model; a strong one is assumed where nothing is known."""
    return _BY_MODEL.get(model, _OTHERS)


def fuse(
    vector: Sequence[Hit], keyword: Sequence[Hit], *, alpha: float, method: Fusion, limit: int, chunks: int
) -> tuple[ScoredChunk, ...]:
    """The best ``limit`` chunks of both branches, best first; equal scores in order of chunk id.

    ``limit`` is also how many hits each branch was asked for; ``chunks`` is the size of the knowledge base.
    """
    if method == "rrf":
        found = _by_rank(vector, keyword, alpha)
    else:
        found = _by_score(vector, keyword, alpha, limit, half_score(chunks))
    return tuple(
        ScoredChunk(chunk_id=chunk_id, score=-below, vector_score=cosine, keyword_score=rank)
        for below, chunk_id, cosine, rank in sorted(found, key=itemgetter(0, 1))[:limit]
    )


def half_score(chunks: int) -> float:
    """The BM25 score that counts half in a knowledge base of so many chunks: that of one and a half rare words."""
    return _RARE_WORDS * math.log1p((max(chunks, 1) - 0.5) / 1.5)


def _by_score(vector: Sequence[Hit], keyword: Sequence[Hit], alpha: float, limit: int, half: float) -> list[_Ranked]:
    cosines, ranks = _scores(vector), _scores(keyword)
    far, rare = _unseen(vector, limit), _unseen(keyword, limit)
    return [
        (
            -(alpha * max(cosines.get(chunk_id, far), 0.0) + (1 - alpha) * _saturate(ranks.get(chunk_id, rare), half)),
            chunk_id,
            cosines.get(chunk_id),
            ranks.get(chunk_id),
        )
        for chunk_id in {**cosines, **ranks}
    ]


def _by_rank(vector: Sequence[Hit], keyword: Sequence[Hit], alpha: float) -> list[_Ranked]:
    cosines, ranks = _scores(vector), _scores(keyword)
    places = [
        (weight, {hit.chunk_id: place for place, hit in enumerate(branch, start=1)})
        for weight, branch in ((alpha, vector), (1 - alpha, keyword))
    ]
    return [
        (
            -(_RRF_K + 1) * sum(w / (_RRF_K + place[chunk_id]) for w, place in places if chunk_id in place),
            chunk_id,
            cosines.get(chunk_id),
            ranks.get(chunk_id),
        )
        for chunk_id in {**cosines, **ranks}
    ]


def _scores(hits: Sequence[Hit]) -> dict[str, float]:
    return {hit.chunk_id: hit.score for hit in hits}


def _unseen(hits: Sequence[Hit], limit: int) -> float:
    # A full list was cut: what it left out scores at most as its last. A short one has left out only zeros.
    return hits[-1].score if len(hits) >= limit else 0.0


def _saturate(bm25: float, half: float) -> float:
    return bm25 / (bm25 + half)
