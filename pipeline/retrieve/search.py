"""Stage ``search``: vector and keyword branches side by side, fused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pipeline.retrieve.fuse import defaults_of, fuse
from pipeline.seams import Retriever
from pipeline.types import AskState, Hit, IndexRef, KnowledgeBase, unpack_vector


def search(state: AskState, *, retriever: Retriever, candidates: int, alpha: float | None, timeout: float) -> AskState:
    """The best ``candidates`` chunks. ``alpha`` is the default where the question sets none, and the model's own
    where that is None too.
    """
    kb = _known(state)
    asked = state.question.options.alpha
    weight = asked if asked is not None else alpha if alpha is not None else defaults_of(kb.embedding_model).alpha
    limit = max(candidates, 2 * state.question.options.top_k)
    vector, keyword = _branches(state, kb.index, retriever, weight, limit, timeout)
    hits = fuse(vector, keyword, alpha=weight, method=state.question.options.fusion, limit=limit, chunks=kb.chunks)
    return state.but(hits=hits, vector=None)


def _branches(
    state: AskState, index: IndexRef, retriever: Retriever, alpha: float, limit: int, timeout: float
) -> tuple[list[Hit], list[Hit]]:
    text = state.question.text
    if state.vector is None or alpha == 0.0:
        return [], retriever.keyword_search(index, text, limit, timeout=timeout)
    vector = unpack_vector(state.vector)
    if alpha == 1.0:
        return retriever.vector_search(index, vector, limit, timeout=timeout), []
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="keyword") as pool:
        keyword = pool.submit(retriever.keyword_search, index, text, limit, timeout=timeout)
        return retriever.vector_search(index, vector, limit, timeout=timeout), keyword.result()


def _known(state: AskState) -> KnowledgeBase:
    if state.kb is None:
        raise ValueError("search comes after guard, which sets the knowledge base")
    return state.kb
