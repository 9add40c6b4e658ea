"""What is shown of a batch of questions."""

from __future__ import annotations

import io

from rich.console import Console

from deploy.console.batch_progress import Standing, bar, failure_line, headline, summary_lines
from pipeline.batch.result import Result
from pipeline.batch.tally import Tally
from pipeline.errors import RateLimited
from pipeline.types import Answer, Degradation, Usage

KEY = "348bf615-b776-5104-94ff-b0acffa5ba5a"


def answered(cost: float | None) -> Result:
    usage = Usage(input_tokens=1000, output_tokens=50, embedding_tokens=7, cost_usd=cost)
    loss = Degradation(mode="no_rerank", stage="rerank", reason="It was down.")
    answer = Answer(question_id="q", outcome="answered", mode="generated", text="", usage=usage, degraded=(loss,))
    return Result(line=1, key=KEY, status="done", question="?", kb="k", seconds=1.25, answer=answer)


FAILED = Result(
    line=7, key=KEY, status="failed", question="?", kb="k", error=RateLimited("Too\x1b[2J\nmany.", "Wait.").to_json()
)


def tally(*results: Result) -> Tally:
    counted = Tally()
    for result in results:
        counted.add(result)
    return counted


def test_the_headline_says_what_is_known() -> None:
    said = headline(Standing(10, tally(answered(0.5), FAILED), under_way=4, rate=2.0))
    assert said == (
        "1 of 10 answered · 1 failed · 4 under way · 2.0/s · p50 1.25 s · 1,057 tokens · $0.5000 · time left 4 s"
    )


def test_the_bar_has_a_line_of_its_own() -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(bar(Standing(10, tally(answered(0.5)), under_way=4, rate=None)))
    shown = console.export_text().splitlines()
    assert len(shown) == 2
    assert shown[1].startswith("1 of 10 answered")


def test_it_is_honest_at_the_start() -> None:
    said = headline(Standing(10, Tally(), under_way=4, rate=None))
    assert said == "0 of 10 answered · 4 under way · 0 tokens · $0.0000 · time left unknown"


def test_a_failure_is_one_harmless_line() -> None:
    assert failure_line(FAILED) == "failed: line 7: Too�[2J many. Wait."


def test_the_summary_counts_by_cause() -> None:
    summary = {"left": 3, "earlier": 1, "seconds": 12.34}
    first, *others = summary_lines(summary, tally(answered(0.5), answered(None), FAILED))
    assert first == (
        "2 answered, 1 failed, 3 left · 1 were there before · p50 1.25 s, p95 1.25 s · 2,114 tokens · "
        "$0.5000 and 1 of unknown price · 12.3 s"
    )
    assert others == [
        "outcomes: 2 answered",
        "degraded: 2 no_rerank",
        "failures: 1 RateLimited",
    ]
