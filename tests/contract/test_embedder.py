"""What holds for every embedder."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.adapters.openai_client import make_client
from pipeline.adapters.openai_embedder import OpenAIEmbedder
from pipeline.adapters.wordllama_embedder import WordllamaEmbedder
from pipeline.seams import Embedder
from tests.standin.fixture import StandInProcess

STRANGE = ["", " ", "\n\n", "\x00", "😀", "队列", "\ud800 lone", "?!", "HELLO WORLD", "e\u0301", "word " * 3000]

OFFLINE = WordllamaEmbedder()  # loaded once


class EmbedderContract:
    """Inherit it and provide a fixture ``embedder``."""

    def test_vectors_are_float32_of_unit_length_and_of_the_size_that_is_said(self, embedder: Embedder) -> None:
        found = embedder.embed(["a task", "a longer text about queues"], timeout=10).vectors
        assert [vector.shape for vector in found] == [(embedder.dimensions,)] * 2
        assert {vector.dtype for vector in found} == {np.dtype(np.float32)}
        assert [float(np.linalg.norm(vector)) for vector in found] == pytest.approx([1, 1], abs=1e-3)

    def test_the_model_has_a_name(self, embedder: Embedder) -> None:
        assert embedder.model

    def test_no_texts_give_no_vectors(self, embedder: Embedder) -> None:
        assert embedder.embed([], timeout=10).vectors == ()

    def test_vectors_come_in_the_order_of_the_texts_however_many_there_are(self, embedder: Embedder) -> None:
        """More than one call of a service takes, and a text alone has the vector that it has among others."""
        texts = [f"text about thing number {n}" for n in range(50)]
        found = embedder.embed(texts, timeout=10).vectors
        for place in (0, 24, 49):
            (alone,) = embedder.embed([texts[place]], timeout=10).vectors
            np.testing.assert_allclose(found[place], alone, atol=1e-3)
        assert not np.allclose(found[0], found[49])

    def test_the_same_text_gives_the_same_vector(self, embedder: Embedder) -> None:
        first, second = embedder.embed(["a task", "a task"], timeout=10).vectors
        np.testing.assert_allclose(first, second, atol=1e-6)

    @pytest.mark.parametrize("text", STRANGE, ids=[ascii(text[:12]) for text in STRANGE])
    def test_a_strange_text_has_a_vector_of_unit_length(self, embedder: Embedder, text: str) -> None:
        """Never NaN: one such vector among others spoils every search."""
        before, vector, after = embedder.embed(["before", text, "after"], timeout=10).vectors
        assert float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-3)
        np.testing.assert_allclose(before, embedder.embed(["before"], timeout=10).vectors[0], atol=1e-3)
        np.testing.assert_allclose(after, embedder.embed(["after"], timeout=10).vectors[0], atol=1e-3)

    def test_in_parts_each_text_comes_once_with_the_vector_it_has_alone(self, embedder: Embedder) -> None:
        texts = [f"text about thing number {n}" for n in range(600)]
        parts = list(embedder.embed_parts(texts, timeout=10))
        found = {part.first + at: vector for part in parts for at, vector in enumerate(part.vectors)}
        assert sum(len(part.vectors) for part in parts) == len(found) == len(texts)
        assert len(parts) > 1
        whole = embedder.embed(texts, timeout=10).vectors
        np.testing.assert_allclose(np.stack([found[place] for place in range(len(texts))]), np.stack(whole), atol=1e-3)

    def test_no_texts_give_no_parts(self, embedder: Embedder) -> None:
        assert list(embedder.embed_parts([], timeout=10)) == []


class TestWordllama(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> Embedder:
        return OFFLINE


class TestOpenAI(EmbedderContract):
    @pytest.fixture
    def embedder(self, standin: StandInProcess) -> Iterator[Embedder]:
        with make_client("key", standin.url, 5.0) as client:
            yield OpenAIEmbedder(client, "text-embedding-3-small", None, max_texts=16, max_tokens=10_000, concurrency=4)
