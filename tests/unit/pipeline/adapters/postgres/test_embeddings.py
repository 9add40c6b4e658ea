from __future__ import annotations

import hashlib
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipeline.types import Vector
from pipeline.wiring import Parts


@pytest.fixture
def model() -> str:
    """A model that no other test has saved vectors of."""
    return uuid.uuid4().hex


def vectors(count: int, seed: int = 0) -> dict[str, Vector]:
    made = np.random.default_rng(seed).standard_normal((count, 5)).astype(np.float32)
    return {hashlib.sha256(str(n).encode()).hexdigest(): vector for n, vector in enumerate(made)}


def test_vectors_are_read_back_to_the_bit(parts: Parts, model: str) -> None:
    given = vectors(50)
    parts.embeddings.save(model, given)
    found = parts.embeddings.load(model, list(given))
    assert set(found) == set(given)
    assert all(found[key].dtype == np.float32 and np.array_equal(found[key], given[key]) for key in given)


def test_only_what_is_there_is_known_and_loaded(parts: Parts, model: str) -> None:
    given = vectors(3)
    first, second, third = given
    parts.embeddings.save(model, {first: given[first], second: given[second]})
    assert parts.embeddings.known(model, list(given)) == {first, second}
    assert set(parts.embeddings.load(model, [second, third])) == {second}
    assert parts.embeddings.known(model, []) == set()
    assert parts.embeddings.load(model, []) == {}


def test_vectors_of_one_model_are_none_of_another(parts: Parts, model: str) -> None:
    given = vectors(1)
    parts.embeddings.save(model, given)
    assert parts.embeddings.known(f"{model}-large", list(given)) == set()


def test_the_first_vector_of_a_text_stays(parts: Parts, model: str) -> None:
    """Chunks in the store were written with it."""
    parts.embeddings.save(model, vectors(2))
    parts.embeddings.save(model, vectors(3, seed=1))
    found = parts.embeddings.load(model, list(vectors(3)))
    assert len(found) == 3
    assert all(np.array_equal(found[key], vector) for key, vector in vectors(2).items())


def test_workers_that_save_the_same_texts_in_any_order_do_not_block_each_other(parts: Parts, model: str) -> None:
    given = vectors(300)
    orders = [dict(sorted(given.items(), reverse=bool(n % 2))) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda order: parts.embeddings.save(model, order), orders))
    assert parts.embeddings.known(model, list(given)) == set(given)
