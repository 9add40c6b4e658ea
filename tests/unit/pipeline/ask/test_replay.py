"""From which stage, and with what, a question that is over begins again: over a knowledge base that is really there."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from pipeline.ask import flow, replay
from pipeline.ask.question import new_question
from pipeline.errors import BadSettings, Conflict
from pipeline.types import (
    AskOptions,
    AskState,
    CacheNote,
    Degradation,
    Flag,
    KnowledgeBase,
    Question,
    QuestionRecord,
    Usage,
)
from pipeline.wiring import Parts
from tests.installation import Pad, ingest, write

OWLS = "When do owls hunt?"


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    write(tmp_path / "docs", owls="Owls hunt at night.", rivers="The Volga flows into the Caspian Sea.")
    return tmp_path / "docs"


@pytest.fixture
def filled(parts: Parts, kb: KnowledgeBase, docs: Path) -> KnowledgeBase:
    ingest(parts, kb, docs)
    return kb


@pytest.fixture
def answered(parts: Parts, filled: KnowledgeBase) -> QuestionRecord:
    question = new_question(OWLS, parts.settings, kb=filled.name)
    parts.questions.submit(question)
    flow.run(question, parts, Pad())
    return parts.questions.find(question.id)


@pytest.fixture
def again(parts: Parts, answered: QuestionRecord) -> Question:
    return replay.asked_again(answered, parts, None, 5.0)


def stopped_at(stage: str, parts: Parts, kb: KnowledgeBase) -> AskState:
    """The state that this stage is given."""
    state = AskState(question=new_question(OWLS, parts.settings, kb=kb.name))
    for name in flow.STAGES[: flow.STAGES.index(stage)]:
        state = flow.run_stage(name, state, parts, Pad())
    return state


def end(begins: replay.Beginning, parts: Parts) -> AskState:
    """The state that ``record`` is given when a replay is run here."""
    state = begins.state
    for name in flow.STAGES[flow.STAGES.index(begins.stage) : -1]:
        state = flow.run_stage(name, state, parts, Pad())
    return state


class TestFromARow:
    def test_generate_gets_the_passages_of_then(
        self, parts: Parts, answered: QuestionRecord, again: Question, filled: KnowledgeBase
    ) -> None:
        begins = replay.from_row(again, answered, "generate", parts)
        assert (begins.stage, begins.reason) == ("generate", "")
        assert begins.state.passages == answered.passages
        assert begins.question.replay is not None
        assert (begins.question.replay.of, begins.question.replay.stage) == (answered.question.id, "generate")
        made = end(begins, parts).answer
        assert made is not None
        assert answered.answer is not None
        assert (made.question_id, made.text) == (again.id, answered.answer.text)

    @pytest.mark.parametrize("stage", ["guard", "embed", "search", "enrich", "rerank"])
    def test_what_comes_before_begins_at_the_start(
        self, stage: str, parts: Parts, answered: QuestionRecord, again: Question
    ) -> None:
        begins = replay.from_row(again, answered, stage, parts)
        assert (begins.stage, begins.state.kb, bool(begins.reason)) == ("guard", None, stage != "guard")
        assert begins.question.replay is not None
        assert begins.question.replay.stage == "guard"

    def test_flags_of_the_question_are_kept_and_those_of_the_answer_are_not(
        self, parts: Parts, answered: QuestionRecord, again: Question
    ) -> None:
        flags = tuple(Flag(rule="r", where=where, excerpt="e") for where in ("question", "passage 1", "answer"))
        flagged = answered.model_copy(update={"flags": flags})
        assert replay.from_row(again, flagged, "generate", parts).state.flags == flags[:1]

    def test_passages_that_have_changed_are_looked_for_again(
        self, parts: Parts, answered: QuestionRecord, again: Question, filled: KnowledgeBase, docs: Path
    ) -> None:
        write(docs, owls="Owls hunt at night and sleep by day.")
        ingest(parts, filled, docs)
        begins = replay.from_row(again, answered, "generate", parts)
        assert (begins.stage, begins.reason) == ("guard", "documents have changed since")

    def test_what_was_found_in_a_degraded_way_is_looked_for_again(
        self, parts: Parts, answered: QuestionRecord, again: Question
    ) -> None:
        loss = Degradation(mode="keyword_only", stage="embed", reason="It was down.")
        degraded = answered.model_copy(update={"degraded": (loss,)})
        assert replay.from_row(again, degraded, "generate", parts).stage == "guard"

    def test_without_passages_or_of_record_there_is_nothing_to_replay(
        self, parts: Parts, answered: QuestionRecord, again: Question
    ) -> None:
        with pytest.raises(Conflict, match="no passages"):
            replay.from_row(again, answered.model_copy(update={"passages": ()}), "generate", parts)
        with pytest.raises(Conflict, match="second time"):
            replay.from_row(again, answered, "record", parts)


class TestFromALetter:
    @pytest.mark.parametrize("stage", flow.STAGES)
    def test_every_stage_goes_on_with_what_it_was_given(
        self, stage: str, parts: Parts, filled: KnowledgeBase, again: Question
    ) -> None:
        state = stopped_at(stage, parts, filled)
        begins = replay.from_letter(again, stage, state.but(cache=CacheNote(answer="a", retrieval="r")), parts)
        assert begins.state.cache is None  # else its answer would be kept under the keys of the options before
        assert (begins.stage, begins.reason, begins.state.timings) == (stage, "", ())
        answer = end(begins, parts).answer
        assert answer is not None
        assert (answer.question_id, answer.outcome) == (again.id, "answered")

    def test_what_was_paid_before_is_not_paid_again(self, parts: Parts, filled: KnowledgeBase, again: Question) -> None:
        state = stopped_at("record", parts, filled)
        assert state.answer is not None
        used = Usage(model="m", input_tokens=9, cost_usd=0.5)
        state = state.but(answer=state.answer.model_copy(update={"usage": used}), spent=used)
        begins = replay.from_letter(again, "record", state, parts)
        answer = end(begins, parts).answer
        assert answer is not None
        assert answer.usage == Usage(model="m", cost_usd=0.0)

    def test_a_knowledge_base_made_anew_or_gone_is_asked_from_the_start(
        self, parts: Parts, filled: KnowledgeBase, again: Question
    ) -> None:
        state = stopped_at("search", parts, filled)
        other = filled.model_copy(update={"id": str(uuid.uuid4())})
        begins = replay.from_letter(again, "search", state.but(kb=other), parts)
        assert (begins.stage, begins.reason) == ("guard", "its knowledge base has another index now")
        parts.knowledge_bases.delete(filled.id)
        begins = replay.from_letter(again, "search", state, parts)
        assert (begins.stage, begins.reason) == ("guard", "its knowledge base is gone")

    def test_a_question_nobody_saw_begins_at_the_start(self, parts: Parts, again: Question) -> None:
        assert replay.from_letter(again, "generate", AskState(question=again), parts).stage == "guard"


class TestOptions:
    def test_they_change_as_they_are_given(self) -> None:
        given = ["top_k=8", "min-score=0.1", "fusion=rrf", "parents=true", "model=gpt=5", "alpha="]
        changed = replay.changed(AskOptions(alpha=0.5, verbosity="low"), given, first_stage="guard")
        assert changed == AskOptions(
            top_k=8, min_score=0.1, fusion="rrf", parents=True, model="gpt=5", alpha=None, verbosity="low"
        )

    def test_every_option_is_known_with_the_stage_that_reads_it(self) -> None:
        values = AskOptions().model_dump(exclude={"bulk", "cache"})
        assert replay.changed(AskOptions(), [f"{name}=" for name in values], first_stage="embed") == AskOptions()

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("topk=8", "Did you mean top_k?"),
            ("colour=red", "There is alpha, "),
            ("cache=true", "There is alpha, "),
            ("bulk=true", "'bulk' is not an option"),
            ("top_k", "name=value"),
            ("top_k=many", "top_k=many: "),
            ("top_k=0", "See `manage.py ask --help`."),
            ("alpha=1.5", "alpha=1.5: "),
            ("fusion=best", "fusion=best: "),
            ("=8", "is not an option"),
        ],
    )
    def test_what_can_not_be_is_refused_in_one_line(self, given: str, said: str) -> None:
        with pytest.raises(BadSettings) as caught:
            replay.changed(AskOptions(), [given], first_stage="guard")
        assert said in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1

    def test_an_option_that_only_an_earlier_stage_reads_is_refused(self) -> None:
        with pytest.raises(BadSettings, match="changes nothing") as caught:
            replay.changed(AskOptions(), ["top_k=8"], first_stage="generate")
        assert "search" in caught.value.hint
        assert replay.changed(AskOptions(), ["model=m"], first_stage="generate").model == "m"

    def test_a_stage_that_is_none_is_refused_with_the_nearest(self) -> None:
        assert [replay.require_stage(name) for name in flow.STAGES] == list(flow.STAGES)
        with pytest.raises(BadSettings, match="generate"):
            replay.require_stage("generat")
