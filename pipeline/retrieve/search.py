"""Stage ``search``: vector and keyword branches side by side, fused."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

from pipeline.errors import ServerFault
from pipeline.retrieve.fuse import defaults_of, fuse
from pipeline.seams import Retriever
from pipeline.types import AskState, Hit, IndexRef, KnowledgeBase, unpack_vector

# More than the questions that one process works on at once.
_AT_ONCE = 256


def search(state: AskState, *, retriever: Retriever, candidates: int, alpha: float | None, timeout: float) -> AskState:
    """The best ``candidates`` chunks. ``alpha`` is the default where the question sets none, and the model's own
    where that is None too. Raises ServerFault where the store has nothing of a knowledge base that holds chunks.
    """
    kb = _known(state)
    asked = state.question.options.alpha
    weight = asked if asked is not None else alpha if alpha is not None else defaults_of(kb.embedding_model).alpha
    if state.vector is None:
        weight = 0.0  # keywords alone are not to be weighed as half of the evidence
    limit = max(candidates, 2 * state.question.options.top_k)
    vector, keyword = _branches(state, kb.index, retriever, weight, limit, timeout)
    if weight > 0 and kb.chunks and not vector:
        # Something is always nearest. A store that starts answers before it knows its data, and nobody may be told,
        # let alone from a cache, that what is there is not.
        message = f"{kb.store} has none of the {kb.chunks} chunks of knowledge base {kb.name!r}."
        raise ServerFault(message, "It may be starting. If that goes on, see `manage.py fsck`.", {"upstream": kb.store})
    hits = fuse(vector, keyword, alpha=weight, method=state.question.options.fusion, limit=limit, chunks=kb.chunks)
    return state.but(hits=hits, vector=None)


def _branches(
    state: AskState, index: IndexRef, retriever: Retriever, alpha: float, limit: int, timeout: float
) -> tuple[list[Hit], list[Hit]]:
    text = state.search_text
    if state.vector is None or alpha == 0.0:
        return [], retriever.keyword_search(index, text, limit, timeout=timeout)
    vector = unpack_vector(state.vector)
    if alpha == 1.0:
        return retriever.vector_search(index, vector, limit, timeout=timeout), []
    keyword = _pool(os.getpid()).submit(retriever.keyword_search, index, text, limit, timeout=timeout)
    try:
        nearest = retriever.vector_search(index, vector, limit, timeout=timeout)
    except BaseException:
        wait([keyword])
        raise
    return nearest, keyword.result()


@cache
def _pool(_process: int) -> ThreadPoolExecutor:
    """Threads of this process, which stay for the next question; those of a parent do not survive a fork."""
    return ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="keyword")


def _known(state: AskState) -> KnowledgeBase:
    if state.kb is None:
        raise ValueError("search comes after guard, which sets the knowledge base")
    return state.kb
