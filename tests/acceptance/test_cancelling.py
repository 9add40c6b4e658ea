"""``manage.py cancel``."""

from __future__ import annotations

import uuid

from tests.acceptance.conftest import Corpus
from tests.acceptance.live_stack import LiveStack
from tests.benchmarks import cancel
from tests.standin.fixture import StandInProcess

CANCELLED = 4


def test_of_several_questions_each_gets_its_own_answer(
    served_filled: LiveStack, standin: StandInProcess, corpus: Corpus
) -> None:
    over = served_filled.cli("ask", corpus.questions[6], "--json").json["question_id"]
    standin.configure(chunks=500, stream_seconds=50)
    under_way = served_filled.cli("ask", corpus.questions[7], "--detach").out.strip()
    standin.wait_for(lambda seen: seen["streams_open"] == 1)
    outcome = served_filled.cli("cancel", under_way[:8], over, str(uuid.uuid4()), "nonsense")
    assert outcome.status == 2
    assert outcome.out.splitlines() == [f"{under_way[:8]} cancelled"]
    assert served_filled.cli("result", under_way[:8]).status == CANCELLED
    assert [line.startswith("error: ") for line in outcome.error_lines] == [True] * 3
    assert f"{over} is over already" in outcome.error_lines[0]
    standin.wait_for(lambda seen: len(seen["closed_early"]) == 1)  # of itself it would end in 50 s
    assert served_filled.question(corpus.questions[6])["status"] == "done"


def test_a_program_reads_the_same(served_filled: LiveStack, standin: StandInProcess, corpus: Corpus) -> None:
    standin.configure(first_token=50)
    question = served_filled.cli("ask", corpus.questions[8], "--detach", "--json").json["question_id"]
    assert served_filled.cli("cancel", question, "--json").json == [{"id": question, "cancelled": True, "error": None}]
    again = served_filled.cli("cancel", question, "--json")
    assert again.status == 0, "it is what was asked for"
    result = served_filled.cli("result", question, "--json")
    assert result.status == CANCELLED
    assert '"code": "Cancelled"' in result.err


def test_every_stream_is_closed_at_once(served_filled: LiveStack, standin: StandInProcess) -> None:
    found = cancel.phase(served_filled.cli, standin, "in mid-stream", 10)
    assert (found["closed"], found["cancelled_on_record"]) == (10, 10), found
    # Each within a second, on a machine that is not busy with other things: ``python -m tests.benchmarks.cancel``.
    assert found["closed_ms"]["p50"] < cancel.LIMIT_MS, found
    assert found["told_ms"]["p50"] < cancel.LIMIT_MS, found
