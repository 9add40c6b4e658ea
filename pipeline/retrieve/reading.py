"""From passages to their texts: those of the chunks, or of their parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.types import Parent, Passage


class PassageTexts(Protocol):
    """Where texts of chunks and of their parents are looked up."""

    def texts(self, kb_id: str, chunk_ids: Sequence[str]) -> Mapping[str, str]:
        """Texts by chunk id."""

    def parents(self, kb_id: str, chunk_ids: Sequence[str]) -> Mapping[str, Parent]:
        """Parents of live chunks, by chunk id."""


def read(passages: Sequence[Passage], kb_id: str, *, texts: PassageTexts, parents: bool = False) -> tuple[Passage, ...]:
    """The passages with their texts; one whose document was replaced meanwhile is left out.

    With ``parents`` each is widened to its parent. Those of one parent become one, which has the place in the order
    and the chunk id of the first, and the best score.
    """
    ids = [passage.chunk_id for passage in passages]
    if not ids:
        return ()
    if parents:
        return _widened(passages, texts.parents(kb_id, ids))
    found = texts.texts(kb_id, ids)
    return tuple(p.model_copy(update={"text": found[p.chunk_id]}) for p in passages if p.chunk_id in found)


def _widened(passages: Sequence[Passage], parents: Mapping[str, Parent]) -> tuple[Passage, ...]:
    merged: dict[tuple[str, int, int], Passage] = {}
    for passage in passages:
        parent = parents.get(passage.chunk_id)
        if parent is None:
            continue
        place = (passage.document_id, parent.start, parent.end)
        first = merged.get(place) or passage.model_copy(update=parent._asdict())
        merged[place] = first.model_copy(update={"score": max(first.score, passage.score)})
    return tuple(merged.values())
