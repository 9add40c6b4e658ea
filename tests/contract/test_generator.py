"""What holds for every generator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.adapters.extractive import ExtractiveGenerator
from pipeline.adapters.openai_client import make_client
from pipeline.adapters.openai_generator import OpenAIGenerator
from pipeline.adapters.wordllama_embedder import WordllamaEmbedder
from pipeline.cancelling import Abort
from pipeline.citations import check
from pipeline.errors import Cancelled
from pipeline.prompts import render
from pipeline.seams import Delta, GenerationRequest, Generator
from pipeline.types import AnswerMode, Passage, Usage
from tests.standin.fixture import StandInProcess

PASSAGES = (
    Passage(chunk_id="a", document_id="d", title="Brokers", text="Redis carries messages. It forgets them.", score=0.9),
    Passage(chunk_id="b", document_id="d", title="Truth", text="Postgres holds the truth about runs.", score=0.8),
)


def request(question: str = "What holds the truth about runs?") -> GenerationRequest:
    return GenerationRequest(question=question, passages=PASSAGES, messages=render(question, PASSAGES))


def deltas(generator: Generator) -> list[Delta]:
    return list(generator.stream(request(), timeout=10))


OFFLINE = ExtractiveGenerator(WordllamaEmbedder())  # loaded once


class GeneratorContract:
    """Inherit it, say ``mode`` and provide a fixture ``generator``."""

    mode: AnswerMode

    def test_it_says_how_its_answers_come_about(self, generator: Generator) -> None:
        assert generator.mode == self.mode

    def test_an_answer_cites_the_passage_that_it_rests_on(self, generator: Generator) -> None:
        checked = check("".join(delta.text for delta in deltas(generator)), PASSAGES)
        assert "Postgres holds the truth about runs" in checked.text
        assert [citation.chunk_id for citation in checked.citations] == ["b"]
        assert checked.removed == ()

    def test_the_last_piece_and_no_other_carries_the_usage(self, generator: Generator) -> None:
        *before, last = deltas(generator)
        assert all(delta.usage is None and delta.text for delta in before)
        assert last.usage is not None
        assert last.usage.model
        assert last.usage.cost_usd is not None

    def test_the_same_request_gives_the_same_answer(self, generator: Generator) -> None:
        def answer() -> tuple[str, Usage | None]:
            found = deltas(generator)
            return "".join(delta.text for delta in found), found[-1].usage

        assert answer() == answer()

    def test_a_reader_may_leave_after_the_first_piece_and_another_is_served(self, generator: Generator) -> None:
        stream = generator.stream(request(), timeout=10)
        assert next(stream).text
        stream.close()  # type: ignore[attr-defined]  # every adapter's iterator is a generator
        assert deltas(generator)

    def test_an_abort_ends_it_with_cancelled(self, generator: Generator) -> None:
        abort = Abort()
        stream = generator.stream(request(), timeout=10, abort=abort)
        assert next(stream).text
        abort.trigger()
        with pytest.raises(Cancelled):
            list(stream)

    def test_one_that_is_aborted_before_gives_nothing(self, generator: Generator) -> None:
        abort = Abort()
        abort.trigger()
        with pytest.raises(Cancelled):
            next(generator.stream(request(), timeout=10, abort=abort))


class TestExtractive(GeneratorContract):
    mode = "extractive"

    @pytest.fixture
    def generator(self) -> Generator:
        return OFFLINE


class TestOpenAI(GeneratorContract):
    mode = "generated"

    @pytest.fixture
    def generator(self, standin: StandInProcess) -> Iterator[Generator]:
        with make_client("key", standin.url, 5.0) as client:
            yield OpenAIGenerator(client, "gpt-5-mini")
