"""BM25 as an inner product of sparse vectors, and the binary form in which Postgres takes them.

With term frequency tf, document length L, average length A, N chunks of which df hold the term:

    score = Σ idf · weight        idf = ln(1 + (N − df + ½) / (df + ½))
    weight = tf · (k1 + 1) / (tf + k1 · (1 − b + b · L / A))

(Robertson and Zaragoza 2009, with the idf of Lucene, which is never negative.) The weights are stored
with the chunk; the idf comes with the query, so new chunks don't touch old ones but through A. The
frequencies can be recovered from the weights, L and A, so no second copy of them is kept.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

K1 = 1.2
B = 0.75
DIMENSIONS = 1_000_000_000
"""What pgvector allows for a sparsevec; terms are hashed into it."""
MAX_TERMS = 16_000
"""Non-zero entries that pgvector allows in one sparsevec."""

_HEADER = struct.Struct(">iii")


class TermCounts(NamedTuple):
    """The bag of words of one chunk: ``terms`` (hashes, ascending) and how often each occurs, both int32."""

    terms: NDArray[np.int32]
    frequencies: NDArray[np.int32]

    @classmethod
    def of(cls, hashes: NDArray[np.int32], frequencies: NDArray[np.int32]) -> Self:
        """From terms in any order; two terms of one hash count as one."""
        terms, places = np.unique(hashes, return_inverse=True)
        counts = np.bincount(places, weights=frequencies, minlength=len(terms)).astype(np.int32)
        return cls(terms[:MAX_TERMS].astype(np.int32), counts[:MAX_TERMS])

    @property
    def length(self) -> int:
        """Number of words, stop words left out."""
        return int(self.frequencies.sum())

    def same_as(self, other: TermCounts) -> bool:
        """Whether both hold the same terms equally often."""
        return np.array_equal(self.terms, other.terms) and np.array_equal(self.frequencies, other.frequencies)


EMPTY = TermCounts(np.empty(0, np.int32), np.empty(0, np.int32))


def encode(counts: TermCounts, average: float) -> bytes:
    """The chunk's weights as a sparsevec in the binary form of ``sparsevec_recv``."""
    frequencies = counts.frequencies.astype(np.float64)
    weights = frequencies * (K1 + 1) / (frequencies + _norm(counts.length, average))
    header = _HEADER.pack(DIMENSIONS, len(counts.terms), 0)
    return header + counts.terms.astype(">i4").tobytes() + weights.astype(">f4").tobytes()


def decode(sparsevec: bytes, length: int, average: float) -> TermCounts:
    """The counts that :func:`encode` was given, from its result and what it was made with."""
    terms = decode_terms(sparsevec)
    weights = np.frombuffer(sparsevec, ">f4", len(terms), _HEADER.size + 4 * len(terms)).astype(np.float64)
    frequencies = weights * _norm(length, average) / (K1 + 1 - weights)
    return TermCounts(terms, np.rint(frequencies).astype(np.int32))


def decode_terms(sparsevec: bytes) -> NDArray[np.int32]:
    """Its terms alone, ascending."""
    _, size, _ = _HEADER.unpack_from(sparsevec)
    return np.frombuffer(sparsevec, ">i4", size, _HEADER.size).astype(np.int32)


def _norm(length: int, average: float) -> float:
    return K1 * (1 - B + B * length / average)
