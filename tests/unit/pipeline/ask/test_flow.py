"""All stages in one process, over a knowledge base that is really there."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.ask import flow
from pipeline.ask.question import new_question
from pipeline.errors import AuthenticationFailed, DeadlineExceeded, NotFound, ServerFault, Unavailable
from pipeline.settings import Settings
from pipeline.types import Answer, AskOptions, AskState, KnowledgeBase, Question, Turn
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
    assert tuple(timing.stage for timing in answer.timings) == flow.stages(parts)
    assert 0 < sum(timing.run_ms + timing.queue_ms for timing in answer.timings) <= spent + 5
    assert all(timing.run_ms > 0 for timing in answer.timings)
    recorded = parts.questions.answer(question.id)
    assert recorded is not None
    assert tuple(timing.stage for timing in recorded.timings) == flow.stages(parts)


def test_once_there_is_an_answer_it_only_has_to_be_recorded(parts: Parts, filled: KnowledgeBase) -> None:
    state = AskState(question=asked(parts, filled))
    assert flow.stages_left(state, parts) == flow.stages(parts)
    assert flow.stages_left(state.but(answer=flow.run(state.question, parts, Pad())), parts) == ("record",)


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


# --------------------------------------------------------------------------- what is down, or late


@pytest.fixture(scope="module")
def hosted(parts: Parts) -> Iterator[Callable[..., Parts]]:
    """Makes parts whose models are those of a service at this address."""
    made: list[Parts] = []

    def make(url: str, **settings: object) -> Parts:
        service = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": url, "connect_timeout": 2.0, **settings}
        made.append(Parts(Settings(DATABASE_URL=parts.database_url, **service)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def served(
    hosted: Callable[..., Parts], standin: StandInProcess, tmp_path: Path
) -> tuple[Callable[..., Parts], KnowledgeBase]:
    """A knowledge base embedded by the stand-in, and the maker of parts that ask it."""
    several = hosted(standin.url)
    kb = new_kb(several, model="text-embedding-3-small", dimensions=64)
    write(tmp_path, **TEXTS)
    ingest(several, kb, tmp_path)
    return hosted, kb


Served = tuple[Callable[..., Parts], KnowledgeBase]


def modes(answer: Answer) -> list[tuple[str, str]]:
    return [(loss.stage, loss.mode) for loss in answer.degraded]


def test_without_the_embedding_service_keywords_find_the_passage(served: Served, standin: StandInProcess) -> None:
    hosted, kb = served
    standin.configure(faults=[{"kind": "status", "status": 500, "endpoint": "embeddings"}])
    parts = hosted(standin.url)
    answer = flow.run(asked(parts, kb, alpha=0.9), parts, Pad())
    assert modes(answer) == [("embed", "keyword_only")]
    assert "500" in answer.degraded[0].reason
    assert (answer.mode, answer.passages[0].title) == ("generated", "rivers")
    recorded = parts.questions.answer(answer.question_id)
    assert recorded is not None
    assert recorded.degraded == answer.degraded


def test_without_any_model_the_sentences_of_the_passages_answer(served: Served) -> None:
    hosted, kb = served
    parts = hosted("http://127.0.0.1:1")
    answer = flow.run(asked(parts, kb), parts, Pad())
    assert modes(answer) == [("embed", "keyword_only"), ("generate", "extractive")]
    assert (answer.mode, "Caspian Sea" in answer.text) == ("extractive", True)


def test_a_model_that_breaks_off_in_mid_answer_leaves_nothing_of_it(served: Served, standin: StandInProcess) -> None:
    hosted, kb = served
    standin.configure(chunks=8, faults=[{"kind": "disconnect", "after_chunks": 3, "endpoint": "chat"}])
    pad = Pad()
    parts = hosted(standin.url)
    answer = flow.run(asked(parts, kb), parts, pad)
    assert modes(answer) == [("generate", "extractive")]
    assert answer.usage.estimated_tokens > 0, "it is paid for all the same"
    assert parts.questions.find(answer.question_id).usage == answer.usage
    assert len(pad.attempts) == 2, "the second attempt makes readers forget the first"


def test_a_model_that_hangs_leaves_time_for_something_lesser(served: Served, standin: StandInProcess) -> None:
    hosted, kb = served
    parts = hosted(standin.url)
    assert parts.extractive  # loaded before the first question, as in a worker
    standin.configure(faults=[{"kind": "hang", "endpoint": "chat"}])
    question = new_question("Where does the Volga flow?", parts.settings, kb=kb.name, timeout=10)
    parts.questions.submit(question)
    answer = flow.run(question, parts, Pad())
    assert time.time() < question.deadline
    assert modes(answer) == [("generate", "extractive")]


def test_a_model_with_little_time_is_told_to_be_brief(served: Served, standin: StandInProcess) -> None:
    hosted, kb = served
    parts = hosted(standin.url)
    question = new_question("Where does the Volga flow?", parts.settings, kb=kb.name, timeout=3)
    parts.questions.submit(question)
    answer = flow.run(question, parts, Pad())
    assert (answer.mode, modes(answer)) == ("generated", [("generate", "brief")])


def test_who_wants_no_lesser_answer_gets_the_error(served: Served, standin: StandInProcess) -> None:
    hosted, kb = served
    standin.configure(faults=[{"kind": "status", "status": 500, "endpoint": "embeddings"}])
    parts = hosted(standin.url)
    with pytest.raises(ServerFault):
        flow.run(asked(parts, kb, strict=True), parts, Pad())


def test_a_wrong_key_is_no_outage(served: Served, standin: StandInProcess) -> None:
    hosted, kb = served
    standin.configure(api_key="another")
    parts = hosted(standin.url)
    with pytest.raises(AuthenticationFailed):
        flow.run(asked(parts, kb), parts, Pad())


def test_a_stage_whose_time_is_over_is_left_out(served: Served, standin: StandInProcess) -> None:
    hosted, kb = served
    parts = hosted(standin.url)
    question = asked(parts, kb).model_copy(update={"submitted_at": time.time() - 50, "deadline": time.time() + 10})
    state = flow.run_stage("embed", AskState(question=question, kb=kb), parts)
    assert [loss.mode for loss in state.degraded] == ["keyword_only"]
    assert not [name for name in standin.counters()["calls"] if name.startswith("embeddings")]


def test_while_a_service_is_known_to_be_down_people_get_something_lesser_at_once_and_bulk_questions_wait(
    parts: Parts, filled: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> AskState:
        raise Unavailable("openai is not called now.", "", {"retry_after": 1.0})

    monkeypatch.setitem(flow._STAGES, "embed", down)
    state = flow.run_stage("embed", AskState(question=asked(parts, filled)), parts)
    assert [loss.mode for loss in state.degraded] == ["keyword_only"]
    with pytest.raises(Unavailable):
        flow.run_stage("embed", AskState(question=asked(parts, filled, bulk=True)), parts)


# --------------------------------------------------------------------------- conversations


def follow_up(
    parts: Parts, kb: KnowledgeBase, text: str = "And what does it flow into?", **options: object
) -> Question:
    """The second question of a conversation, after one about the Volga that was answered."""
    conversation = parts.conversations.begin("default", kb.name)
    opened = new_question("Where is the river Volga?", parts.settings, kb=kb.name, turn=Turn(conversation=conversation))
    flow.run(parts.questions.submit(opened), parts, Pad())
    asked = new_question(
        text, parts.settings, kb=kb.name, turn=Turn(conversation=conversation), options=AskOptions.decode(options)
    )
    return parts.questions.submit(asked)


def test_a_follow_up_is_looked_for_and_answered_as_what_it_means(served: Served, standin: StandInProcess) -> None:
    hosted, kb = served
    parts = hosted(standin.url)
    question = follow_up(parts, kb)
    before = standin.counters()
    standin.configure(rewriting="Which sea does the Volga flow into?")
    answer = flow.run(question, parts, Pad())
    assert answer.standalone == "Which sea does the Volga flow into?"
    assert (answer.passages[0].title, answer.degraded) == ("rivers", ())
    assert [timing.stage for timing in answer.timings] == [name for name in flow.STAGES if name != "rerank"]
    calls = standin.counters()
    assert calls["calls"]["chat 200"] - before["calls"]["chat 200"] == 2
    assert answer.usage.input_tokens == calls["input_tokens"] - before["input_tokens"], "both calls are paid for"
    record = parts.questions.find(question.id)
    assert record.answer is not None
    assert record.standalone == record.answer.standalone == answer.standalone


def test_where_the_model_can_not_rewrite_a_rule_does_and_the_answer_says_so(
    served: Served, standin: StandInProcess
) -> None:
    hosted, kb = served
    parts = hosted(standin.url)
    question = follow_up(parts, kb)
    standin.configure(faults=[{"kind": "status", "status": 500, "endpoint": "chat", "count": 1}])
    answer = flow.run(question, parts, Pad())
    assert modes(answer) == [("transform", "no_rewrite")]
    assert (answer.mode, answer.standalone) == ("generated", "And what does it flow into? (river Volga)")


def test_who_wants_no_lesser_answer_gets_the_error_of_the_rewriting(served: Served, standin: StandInProcess) -> None:
    hosted, kb = served
    parts = hosted(standin.url)
    question = follow_up(parts, kb, strict=True)
    standin.configure(faults=[{"kind": "status", "status": 500, "endpoint": "chat", "count": 1}])
    with pytest.raises(ServerFault):
        flow.run(question, parts, Pad())


def test_without_a_model_a_follow_up_is_looked_for_by_a_rule(parts: Parts, filled: KnowledgeBase) -> None:
    question = follow_up(parts, filled)
    answer = flow.run(question, parts, Pad())
    assert (answer.standalone, answer.degraded) == ("And what does it flow into? (river Volga)", ())
    assert "Caspian Sea" in answer.text


def test_with_no_turns_to_be_read_each_question_stands_alone(
    hosted: Callable[..., Parts], filled: KnowledgeBase, standin: StandInProcess
) -> None:
    parts = hosted(standin.url, embedding_model="wordllama-256", chat_turns=0)
    answer = flow.run(follow_up(parts, filled), parts, Pad())
    assert answer.standalone == ""
    assert "transform" not in {timing.stage for timing in answer.timings}


def test_each_stage_is_a_file_with_one_function_of_its_name() -> None:
    for name in flow.STAGES:
        folder = "retrieve" if name in flow.RETRIEVAL[1:] else "ask"
        module = importlib.import_module(f"pipeline.{folder}.{name}")
        assert getattr(module, name).__module__ == module.__name__
