"""All stages in one process, over a knowledge base that is really there."""

from __future__ import annotations

import importlib
import time
from pathlib import Path

import pytest

from pipeline.ask import flow
from pipeline.ask.question import new_question
from pipeline.errors import DeadlineExceeded, NotFound
from pipeline.settings import Settings
from pipeline.types import AskOptions, AskState, KnowledgeBase, Question
from pipeline.wiring import Parts
from tests.installation import Pad, counts, ingest, new_kb, write
from tests.standin.fixture import StandInProcess

TEXTS = {
    "owls": "Owls hunt at night and see in the dark.",
    "rivers": "The river Volga flows into the Caspian Sea.",
}


@pytest.fixture(scope="module")
def filled(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBase:
    folder = tmp_path_factory.mktemp("facts")
    write(folder, **TEXTS)
    kb = new_kb(parts)
    ingest(parts, kb, folder)
    return kb


def asked(parts: Parts, kb: KnowledgeBase, text: str = "Where does the Volga flow?", **options: object) -> Question:
    question = new_question(text, parts.settings, kb=kb.name, options=AskOptions.decode(options))
    parts.questions.submit(question)
    return question


def test_a_question_is_answered_with_the_words_of_the_document_it_cites(parts: Parts, filled: KnowledgeBase) -> None:
    pad = Pad()
    question = asked(parts, filled)
    answer = flow.run(question, parts, pad)
    assert (answer.outcome, answer.mode) == ("answered", "extractive")
    assert "Caspian Sea" in answer.text
    (citation,) = answer.citations
    assert citation.quote == TEXTS["rivers"][citation.start : citation.end]
    assert Path(citation.source).name == "rivers.txt"
    assert pad.attempts == [1]
    assert parts.questions.answer(question.id) is not None


def test_every_stage_is_timed_in_order(parts: Parts, filled: KnowledgeBase) -> None:
    question = asked(parts, filled)
    before = time.perf_counter()
    answer = flow.run(question, parts, Pad())
    spent = (time.perf_counter() - before) * 1000
    assert tuple(timing.stage for timing in answer.timings) == flow.STAGES
    assert 0 < sum(timing.run_ms + timing.queue_ms for timing in answer.timings) <= spent + 5
    assert all(timing.run_ms > 0 for timing in answer.timings)
    recorded = parts.questions.answer(question.id)
    assert recorded is not None
    assert tuple(timing.stage for timing in recorded.timings) == flow.STAGES


def test_what_nothing_is_known_about_is_not_answered(parts: Parts, filled: KnowledgeBase) -> None:
    answer = flow.run(asked(parts, filled, "Who composed the opera Turandot?", min_score=0.5), parts, Pad())
    assert (answer.outcome, answer.mode, answer.citations) == ("not_in_knowledge_base", "none", ())


def test_retrieval_alone_gives_the_passages_with_their_texts(parts: Parts, filled: KnowledgeBase) -> None:
    question = asked(parts, filled)
    state = flow.retrieve(question, parts)
    assert state.passages[0].text == TEXTS["rivers"]
    assert state.answer is None
    assert parts.questions.answer(question.id) is None


def test_a_stage_is_not_begun_when_time_is_over(parts: Parts, filled: KnowledgeBase) -> None:
    late = asked(parts, filled).model_copy(update={"deadline": time.time() - 0.001})
    with pytest.raises(DeadlineExceeded, match="'guard'"):
        flow.run_stage("guard", AskState(question=late), parts)


def test_an_error_of_a_stage_comes_out_as_it_is(parts: Parts) -> None:
    question = new_question("What?", parts.settings, kb="nowhere")
    with pytest.raises(NotFound, match="nowhere"):
        flow.run(question, parts, Pad())


def test_knowledge_bases_of_three_models_are_written_and_asked_side_by_side_each_with_its_own(
    parts: Parts, standin: StandInProcess, tmp_path: Path
) -> None:
    """Given settings that name one of the models, when all are asked by vectors alone, then each finds its text, and
    the service is asked only for the models that it has.
    """
    service = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": standin.url, "embedding_model": "text-embedding-3-small"}
    several = Parts(Settings(DATABASE_URL=parts.database_url, **service))  # type: ignore[arg-type]
    write(tmp_path, **TEXTS)
    for model, dimensions, calls in (
        ("wordllama-256", 256, 0),
        ("text-embedding-3-small", 1536, 1),
        ("text-embedding-3-small", 512, 1),
        ("text-embedding-3-large", 3072, 1),
    ):
        kb = new_kb(several, model=model, dimensions=dimensions)
        run_id = ingest(several, kb, tmp_path)
        assert counts(several, run_id) == {"done": 2}
        standin.reset()
        state = flow.retrieve(asked(several, kb, TEXTS["rivers"], alpha=1.0, min_score=0.0), several)
        assert state.passages[0].text == TEXTS["rivers"]
        assert sum(standin.counters()["calls"].values()) == calls
    several.close()


def test_each_stage_is_a_file_with_one_function_of_its_name() -> None:
    for name in flow.STAGES:
        folder = "retrieve" if name in ("embed", "search", "enrich", "rerank") else "ask"
        module = importlib.import_module(f"pipeline.{folder}.{name}")
        assert getattr(module, name).__module__ == module.__name__
