"""The arithmetic of BM25 and the binary form of sparse vectors."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.adapters.pgvector import bm25
from pipeline.adapters.pgvector.bm25 import TermCounts


def counts(**frequencies: int) -> TermCounts:
    hashes = np.array([int(name[1:]) for name in frequencies], dtype=np.int32)
    return TermCounts.of(hashes, np.array(list(frequencies.values()), dtype=np.int32))


def weights(sparsevec: bytes) -> list[float]:
    size = int.from_bytes(sparsevec[4:8], "big")
    return [float(value) for value in np.frombuffer(sparsevec, ">f4", size, 12 + 4 * size)]


def test_a_word_once_in_a_chunk_of_average_length_weighs_one() -> None:
    [weight] = weights(bm25.encode(counts(t7=1), average=1.0))

    assert weight == pytest.approx(1.0)


def test_a_weight_follows_the_formula() -> None:
    chunk = counts(t1=3, t2=7)

    expected = [tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * 10 / 25)) for tf in (3, 7)]
    assert weights(bm25.encode(chunk, average=25.0)) == pytest.approx(expected)


def test_terms_ascend_and_those_of_one_hash_are_one() -> None:
    merged = TermCounts.of(np.array([9, 4, 9], dtype=np.int32), np.array([1, 2, 3], dtype=np.int32))

    assert merged.terms.tolist() == [4, 9]
    assert merged.frequencies.tolist() == [2, 4]
    assert merged.length == 6


@pytest.mark.parametrize("average", [1.0, 37.5, 154.2, 9000.0])
def test_frequencies_come_back_from_the_weights(average: float) -> None:
    """Up to 256, all that a tsvector can count of one word, and in single precision."""
    chunk = counts(**{f"t{n}": n for n in range(1, 257)})
    stored = float(np.float32(average))

    decoded = bm25.decode(bm25.encode(chunk, stored), chunk.length, stored)

    assert decoded.same_as(chunk)


def test_a_chunk_without_words_survives() -> None:
    assert bm25.decode(bm25.encode(bm25.EMPTY, 10.0), 0, 10.0).same_as(bm25.EMPTY)


def test_no_more_terms_than_a_sparsevec_takes() -> None:
    many = TermCounts.of(np.arange(20_000, dtype=np.int32), np.ones(20_000, dtype=np.int32))

    assert len(many.terms) == len(many.frequencies) == bm25.MAX_TERMS
