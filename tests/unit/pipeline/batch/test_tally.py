"""What a batch came to."""

from __future__ import annotations

from pipeline.batch.result import Result, head_of
from pipeline.batch.tally import Tally
from pipeline.errors import TimedOut
from pipeline.types import Answer, Usage

KEY = "348bf615-b776-5104-94ff-b0acffa5ba5a"


def answered(seconds: float, **usage: object) -> Result:
    answer = Answer(
        question_id="q", outcome="answered", mode="generated", text="a\u2028b", usage=Usage.model_validate(usage)
    )
    return Result(line=1, key=KEY, status="done", question="?", kb="k", seconds=seconds, answer=answer)


FAILED = Result(line=7, key=KEY, status="failed", question="?", kb="k", error=TimedOut("x").to_json())


def test_it_adds_up() -> None:
    tally = Tally()
    for second in range(1, 101):
        tally.add(answered(second, input_tokens=10, output_tokens=2, embedding_tokens=1, cost_usd=0.5))
    tally.add(FAILED)
    tally.add(answered(1.0, input_tokens=1))
    assert (tally.answered, tally.failed, tally.over, tally.tokens) == (101, 1, 102, 1301)
    assert tally.failures == {"TimedOut": 1}
    assert (tally.cost_usd, tally.unpriced) == (50.0, 1)
    assert tally.percentile(50) == 50.0
    assert tally.percentile(95) == 95.0


def test_what_failed_questions_cost_counts() -> None:
    tally = Tally()
    tally.add(FAILED.model_copy(update={"usage": Usage(input_tokens=30, estimated_tokens=30, cost_usd=0.002)}))
    tally.add(FAILED.model_copy(update={"usage": Usage()}))
    assert (tally.failed, tally.tokens, tally.cost_usd, tally.unpriced) == (2, 30, 0.002, 0)
    assert [tally.leaves_room(budget, 0) for budget in (0.002, 0.003)] == [False, True]
    tally.add(answered(1.0, cost_usd=0.001))
    assert [tally.leaves_room(budget, 0) for budget in (0.0059, 0.006)] == [False, True]


def test_a_budget_bears_what_would_be_spent_and_not_a_question_more() -> None:
    tally = Tally()
    assert [tally.leaves_room(budget, 0) for budget in (0.0, 0.001)] == [False, True]
    assert tally.leaves_room(0.001, 1000), "nobody knows yet what one costs"
    for _ in range(9):
        tally.add(answered(1.0, cost_usd=0.001))
    assert [tally.leaves_room(budget, 0) for budget in (0.0095, 0.010)] == [False, True]
    assert [tally.leaves_room(0.0199, under_way) for under_way in (9, 10)] == [True, False]


def test_nothing_has_no_percentile() -> None:
    assert Tally().percentile(50) is None
    assert Tally().to_json()["seconds_p95"] is None


def test_a_result_is_one_line_and_comes_back() -> None:
    for result in (answered(1.5), FAILED):
        line = result.to_line()
        assert line.count(b"\n") == 1
        assert Result.from_line(line) == result
        assert head_of(line) == (result.line, KEY, result.answer is None)
    assert head_of(b'{"line": 7, "key": "x"}') is None
