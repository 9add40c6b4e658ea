"""How good is retrieval? A labelled collection in BEIR's layout, and the ranking each branch gives for it."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pipeline.ask.question import new_question
from pipeline.errors import BadSettings, NotFound, wrap
from pipeline.retrieve.embed import embed
from pipeline.retrieve.search import search
from pipeline.types import AskState, Hit, KnowledgeBase, ScoredChunk, unpack_vector
from pipeline.wiring import Parts

T = TypeVar("T")

BRANCHES = ("vector", "keyword", "fused")
# Chunks looked up per query: enough for ten documents even where many of the best chunks are of one document.
_DEPTH = 100


@dataclass(frozen=True)
class Collection:
    """``corpus`` is a file of JSON lines; queries and judgements (relevance by document) by id."""

    corpus: Path
    queries: Mapping[str, str]
    judgements: Mapping[str, Mapping[str, int]]


@dataclass
class Ranking:
    """Document scores by query, and the milliseconds each query took."""

    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    ms: list[float] = field(default_factory=list)


def load_collection(folder: Path, limit: int | None = None) -> Collection:
    """Read ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv``; of the judged queries the first ``limit``."""
    hint = "A collection has corpus.jsonl, queries.jsonl and qrels.tsv (BEIR's layout)."
    for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        if not (folder / name).is_file():
            raise NotFound(f"{folder / name} isn't there.", hint)
    try:
        judgements = _judgements(folder / "qrels.tsv")
        queries = {key: text for key, text in _queries(folder / "queries.jsonl") if key in judgements}
    except (KeyError, TypeError, ValueError) as error:
        raise BadSettings(f"{folder} is no collection: {wrap(error).message}.", hint) from None
    chosen = dict(list(queries.items())[:limit])
    if not chosen:
        raise BadSettings(f"{folder} has no judged query.", "The ids in qrels.tsv and queries.jsonl don't meet.")
    return Collection(folder / "corpus.jsonl", chosen, {key: judgements[key] for key in chosen})


def rank(
    kb: KnowledgeBase, collection: Collection, parts: Parts, on_query: Callable[[int], None]
) -> dict[str, Ranking]:
    """Ask every query of every branch, one after the other, as an ``ask`` would."""
    found = {branch: Ranking() for branch in BRANCHES}
    for number, (key, text) in enumerate(collection.queries.items(), start=1):
        for branch, (ranking, ms) in _one(kb, text, parts).items():
            found[branch].scores[key] = _by_document(kb, ranking, parts)
            found[branch].ms.append(ms)
        on_query(number)
    return found


def measure(ranking: Ranking, judgements: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """nDCG@10, recall@5 and @10, MRR over all judged queries, and median and 95th percentile of the time."""
    import ir_measures
    from ir_measures import RR, R, nDCG

    wanted = {nDCG @ 10: "ndcg@10", R @ 5: "recall@5", R @ 10: "recall@10", RR: "mrr"}
    qrels = [
        ir_measures.Qrel(query, document, grade)
        for query, graded in judgements.items()
        for document, grade in graded.items()
    ]
    run = [
        ir_measures.ScoredDoc(query, document, score)
        for query, scores in ranking.scores.items()
        for document, score in scores.items()
    ]
    means = ir_measures.calc_aggregate(list(wanted), qrels, run)
    times = sorted(ranking.ms)
    quality = {name: float(means[measure]) for measure, name in wanted.items()}
    return quality | {"ms_p50": times[len(times) // 2], "ms_p95": times[int(len(times) * 0.95)]}


def _one(kb: KnowledgeBase, text: str, parts: Parts) -> dict[str, tuple[Iterable[Hit | ScoredChunk], float]]:
    settings = parts.settings
    question = new_question(text, settings, kb=kb.name, tenant=kb.tenant)
    begun = time.perf_counter()
    state = embed(AskState(question=question, kb=kb), embedder=parts.embedder_for(kb), timeout=settings.embed_timeout)
    embedding_ms = (time.perf_counter() - begun) * 1000
    vector = unpack_vector(state.vector or "")
    limit, timeout = max(_DEPTH, settings.candidates), settings.search_timeout
    fused, fused_ms = _timed(
        lambda: search(state, retriever=parts.store, candidates=limit, alpha=settings.alpha, timeout=timeout).hits
    )
    near, near_ms = _timed(lambda: parts.store.vector_search(kb.index, vector, limit, timeout=timeout))
    words, words_ms = _timed(lambda: parts.store.keyword_search(kb.index, text, limit, timeout=timeout))
    return {
        "vector": (near, near_ms + embedding_ms),
        "keyword": (words, words_ms),
        "fused": (fused, fused_ms + embedding_ms),
    }


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    begun = time.perf_counter()
    return call(), (time.perf_counter() - begun) * 1000


def _by_document(kb: KnowledgeBase, chunks: Iterable[Hit | ScoredChunk], parts: Parts) -> dict[str, float]:
    """A document scores as its best chunk."""
    listed: Sequence[Hit | ScoredChunk] = list(chunks)
    places = parts.passages.live(kb.id, [chunk.chunk_id for chunk in listed])
    scores: dict[str, float] = {}
    for chunk in listed:
        if chunk.chunk_id in places:
            key = places[chunk.chunk_id].source
            scores[key] = max(scores.get(key, chunk.score), chunk.score)
    return scores


def _queries(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8") as lines:
        for line in filter(str.strip, lines):
            query = json.loads(line)
            yield str(query["_id"]), str(query["text"])


def _judgements(path: Path) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    with path.open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows, delimiter="\t"):
            found.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return found
