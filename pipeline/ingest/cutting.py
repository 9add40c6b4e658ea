"""A document in pieces, and the contract every chunker keeps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pipeline.errors import InternalFault
from pipeline.seams import Chunker
from pipeline.types import Chunk, ParsedDocument

MAX_ALIAS_CHARS = 200
"""Of the aliases that go before every chunk of a document, and are paid for with each."""


def cut(document: ParsedDocument, chunker: Chunker) -> list[Chunk]:
    """The document's chunks, numbered from 0; raises InternalFault where the chunker broke its contract.

    Checked here once for every chunker, because a wrong span would make every citation of it a false quote.
    """
    chunks = chunker.chunk(document)
    for ordinal, piece in enumerate(chunks):
        if piece.ordinal != ordinal or not piece.text.strip() or document.text[piece.start : piece.end] != piece.text:
            raise InternalFault(f"The chunker's chunk {ordinal} is not a numbered, exact stretch of its document.")
    if any(after.start <= before.start for before, after in pairwise(chunks)):
        raise InternalFault("The chunker's chunks are not in order.")
    return chunks


def parents(chunks: Sequence[Chunk], size: int) -> list[tuple[int, int]]:
    """For each chunk, in order, the stretch of the document around it that may be read in its place, as (start, end).

    Neighbours of one section and page share a parent as long as their tokens together are at most ``size``; a larger
    chunk is its own. White space between chunks is not counted. Parents overlap only where their chunks do.
    """
    return [span for group in _groups(chunks, size) for span in [_span(group)] * len(group)]


def context_of(title: str, aliases: Sequence[str], section: str) -> str:
    """What goes before a chunk in what is embedded and ranked: ``Title (alias, alias) > Section > Subsection``.

    People ask for a thing by any of its names, and the chunk that answers may hold none of them.
    """
    # A Markdown file's first heading is often its title too: once is enough.
    below = section.removeprefix(title).removeprefix(" > ") if _begins_with(section, title) else section
    names = ", ".join(_other_names(title, aliases))
    head = f"{title} ({names})" if title and names else title or names
    return " > ".join(part for part in (head, below) if part)


def _groups(chunks: Sequence[Chunk], size: int) -> list[list[Chunk]]:
    groups: list[list[Chunk]] = []
    tokens = 0
    for chunk in chunks:
        tokens += chunk.tokens
        last = groups[-1][-1] if groups else None
        if last is not None and tokens <= size and (last.section, last.page) == (chunk.section, chunk.page):
            groups[-1].append(chunk)
        else:
            groups.append([chunk])
            tokens = chunk.tokens
    return groups


def _span(group: Sequence[Chunk]) -> tuple[int, int]:
    # Starts are in order, but nothing keeps a chunk from ending within the one before it.
    return group[0].start, max(chunk.end for chunk in group)


def _begins_with(section: str, title: str) -> bool:
    return section == title or section.startswith(f"{title} > ")


def _other_names(title: str, aliases: Sequence[str]) -> list[str]:
    """Aliases that say something new, as many as there is room for."""
    found = {alias.casefold(): alias for alias in reversed(aliases) if alias.strip()}
    found.pop(title.casefold(), None)
    kept: list[str] = []
    room = MAX_ALIAS_CHARS
    for alias in reversed(found.values()):
        room -= len(alias) + 2
        if room >= 0:
            kept.append(alias)
    return kept
