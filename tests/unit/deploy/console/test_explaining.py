"""What is told of a question, in each of its states."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator

import pytest

from deploy.console.explaining import explanation
from deploy.console.ids import find_conversation, find_question, of_tenant
from deploy.console.replaying import comparison, replay, say_comparison
from pipeline.ask.replay import changed
from pipeline.errors import BadSettings, NotFound, ServerFault
from pipeline.types import (
    Answer,
    AskOptions,
    Citation,
    Degradation,
    Passage,
    Question,
    QuestionRecord,
    QuestionStatus,
    StageTiming,
    Usage,
)
from pipeline.wiring import Parts
from tests.command_line import ROOT
from tests.installation import migrated_parts

SUBMITTED = 1_790_000_000.0
TIMINGS = (
    StageTiming(stage="guard", queue_ms=100, run_ms=50),
    StageTiming(stage="embed", queue_ms=50, run_ms=100, cached="redis"),
)
RECORD = StageTiming(stage="record", queue_ms=100)
SEEN, UNSEEN = (Passage(chunk_id=name, document_id="d", title=name, score=0.5) for name in ("a", "b"))


@pytest.fixture(scope="module")
def parts(postgres_url: str) -> Iterator[Parts]:
    found = migrated_parts(DATABASE_URL=postgres_url)
    yield found
    found.close()


def record(status: QuestionStatus, **changes: object) -> QuestionRecord:
    question = Question(id="q", text="Why?", submitted_at=SUBMITTED, deadline=SUBMITTED + 10)
    return QuestionRecord(question=question, status=status).model_copy(update=changes)


def answered(*passages: Passage, **usage: object) -> QuestionRecord:
    cited = tuple(Citation(number=1, chunk_id=SEEN.chunk_id, document_id="d") for _ in passages[:1])
    answer = Answer(question_id="q", outcome="answered", mode="generated", text="So. [1]", citations=cited)
    return record(
        "done",
        answer=answer,
        passages=passages,
        timings=(*TIMINGS, RECORD),
        finished_at=SUBMITTED + 1,
        usage=Usage.model_validate(usage),
    )


class TestExplanation:
    def test_all_the_time_of_an_answered_question_is_some_stage_s(self) -> None:
        """The write of ``record`` can't be in the row that it writes: what is left of the time is that."""
        facts = explanation(answered(SEEN, UNSEEN), retrieved=(SEEN, UNSEEN), now=0)
        assert [(s["stage"], s["start_ms"], s["run_ms"]) for s in facts["stages"]] == [
            ("guard", 0, 50),
            ("embed", 150, 100),
            ("record", 300, pytest.approx(600)),
        ]
        assert facts["stages"][1]["cached"] == "redis"
        assert (facts["took_ms"], facts["deadline_ms"], facts["deadline_used"]) == (1000, 10_000, 0.1)
        assert [(place["place"], place["cited"]) for place in facts["retrieved"]] == [("a", True), ("b", False)]

    def test_what_was_lost_before_a_question_was_sent_again_comes_first(self) -> None:
        found = answered()
        again = found.model_copy(update={"question": found.question.model_copy(update={"epoch": 2})})
        facts = explanation(again, now=0)
        assert (facts["sent_again"], facts["lost_ms"]) == (2, pytest.approx(600))
        assert facts["stages"][0]["start_ms"] == pytest.approx(600)
        assert facts["stages"][-1]["run_ms"] == pytest.approx(0)

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_a_question_without_an_answer_keeps_the_times_it_has(self, status: QuestionStatus) -> None:
        error = ServerFault("It broke.").to_json()
        facts = explanation(record(status, error=error, timings=TIMINGS, finished_at=SUBMITTED + 20), now=0)
        assert (facts["status"], facts["error"], facts["deadline_used"]) == (status, error, 2.0)
        assert [stage["run_ms"] for stage in facts["stages"]] == [50, 100]

    def test_the_time_of_an_open_question_goes_on(self) -> None:
        facts = explanation(record("queued"), now=SUBMITTED + 2.5)
        assert (facts["took_ms"], facts["deadline_used"], facts["stages"]) == (2500, 0.25, [])


class TestComparison:
    def test_it_names_what_only_one_of_them_had(self) -> None:
        before, after = answered(SEEN, input_tokens=5), answered(SEEN, UNSEEN, input_tokens=9, cost_usd=0.5)
        compared = comparison(before, after)
        assert (compared["before"]["input_tokens"], compared["after"]["input_tokens"]) == (5, 9)
        assert (compared["before"]["took_ms"], compared["after"]["cost_usd"]) == (1000, 0.5)
        assert compared["passages"]["kept"] == 1
        assert [passage["chunk_id"] for passage in compared["passages"]["gained"]] == ["b"]
        assert comparison(after, before)["passages"]["lost"] == compared["passages"]["gained"]

    def test_what_it_had_to_do_without_is_told_in_words(self, capsys: pytest.CaptureFixture[str]) -> None:
        modes = {"keyword_only": "embed", "extractive": "generate"}
        losses = [{"mode": mode, "stage": stage, "reason": "It was down."} for mode, stage in modes.items()]
        degraded = tuple(Degradation.model_validate(loss) for loss in losses)
        say_comparison(comparison(answered().model_copy(update={"degraded": degraded}), answered()))
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("degraded")]
        assert line.split(maxsplit=1)[1].split("  ")[0] == "keyword only at embed; extractive at generate"
        assert line.rstrip().endswith("–")

    def test_one_that_failed_says_with_what(self) -> None:
        failed = record("failed", error=ServerFault("It broke.").to_json())
        compared = comparison(failed, answered(SEEN))
        assert compared["before"]["outcome"] == "failed: ServerFault"
        assert "It broke." in compared["before"]["text"]
        assert compared["after"]["outcome"] == "answered"


def test_help_and_guide_name_the_options_that_a_replay_takes() -> None:
    with pytest.raises(BadSettings) as caught:
        changed(AskOptions(), ["colour=red"], first_stage="guard")
    known = set(caught.value.hint.removeprefix("There is ").rstrip(".").split(", "))
    told = " ".join((replay.__doc__ or "").split()).partition("Options: ")[2]
    assert set(told.rstrip(".").split(", ")) == known
    (line,) = re.findall(r"`--set` changes (.*?); ", (ROOT / "docs" / "guide.md").read_text().replace("\n", " "))
    assert set(re.findall(r"`(\w+)`", line)) == known


def test_what_is_to_be_typed_names_the_tenant_where_it_is_not_the_default() -> None:
    assert [of_tenant(name) for name in ("default", "acme", "a b")] == ["", " --tenant acme", " --tenant 'a b'"]


class TestWhichQuestion:
    def begin(self, parts: Parts, start: str = "") -> str:
        name = start + str(uuid.uuid4())[len(start) :]
        now = time.time()
        parts.questions.submit(Question(id=name, text="Why?", submitted_at=now, deadline=now))
        return name

    def test_the_beginning_is_enough_where_it_fits_one(self, parts: Parts) -> None:
        name = self.begin(parts)
        assert find_question(parts, name[:18]) == find_question(parts, name.upper()) == name

    def test_the_beginning_of_two_names_both(self, parts: Parts) -> None:
        start = str(uuid.uuid4())[:16]
        both = {self.begin(parts, start), self.begin(parts, start)}
        with pytest.raises(BadSettings) as caught:
            find_question(parts, start)
        assert all(name in str(caught.value) for name in both)

    def test_a_conversation_is_found_by_its_beginning_among_those_of_its_tenant(self, parts: Parts) -> None:
        name = parts.conversations.begin("acme", "default")
        assert find_conversation(parts, name[:8], "acme") == find_conversation(parts, name[:18].upper(), "acme") == name
        assert find_conversation(parts, name[:8], "other") == name[:8]
        for text in (name, "abc", "----", "xyzw", "'; --"):
            assert find_conversation(parts, text, "acme") == text

    @pytest.mark.parametrize(
        "text", ["", "abc", "----", "xyzw", "'; --", "\x1b[31m", "a" * 37, "4d8a9b14-ffed-4007-8999-14b802"]
    )
    def test_what_is_no_id_is_refused(self, parts: Parts, text: str) -> None:
        with pytest.raises(NotFound):
            find_question(parts, text)
