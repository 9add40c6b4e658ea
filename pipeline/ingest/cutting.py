"""A document in pieces, and the contract every chunker keeps."""

from __future__ import annotations

from itertools import pairwise

from pipeline.errors import InternalFault
from pipeline.seams import Chunker
from pipeline.types import Chunk, ParsedDocument


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
