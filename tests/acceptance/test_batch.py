"""``manage.py batch`` on a real stack, killed and stopped in the midst of it."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Corpus
from tests.acceptance.live_stack import LiveStack, wait_until
from tests.killed_batch import kill_at_half
from tests.standin.fixture import StandInProcess

STOPPED, NOT_FINISHED = 130, 3


@pytest.fixture
def questions(corpus: Corpus, tmp_path: Path) -> Path:
    """Sixty questions, each of which costs one call of the model."""
    file = tmp_path / "questions.txt"
    file.write_text("".join(f"{text}\n" for text in corpus.questions * 3))
    return file


def results(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def chat_calls(standin: StandInProcess) -> int:
    return int(standin.counters()["calls"].get("chat 200", 0))


@pytest.mark.parametrize("options", [(), ("--in-order",)], ids=["as they come", "in order"])
def test_killed_at_half_and_given_again_it_answers_all_and_asks_nothing_twice(
    options: tuple[str, ...], served_filled: LiveStack, standin: StandInProcess, questions: Path
) -> None:
    standin.configure(first_token=0.1, stream_seconds=0.2)
    seen = kill_at_half(served_filled.cli, standin, questions, *options, questions=60, concurrency=12)
    assert (seen["answered"], seen["lines"], seen["distinct"], seen["failed"]) == (60, 60, 60, 0)
    assert seen["kept"] >= seen["answers_at_the_kill"] >= 30
    assert seen["asked_twice"] <= 12
    assert seen["rest"] == []
    order = [result["line"] for result in results(questions.with_suffix(".jsonl"))]
    assert (order == sorted(order)) or not options


def test_ctrl_c_keeps_what_has_come_and_says_how_to_go_on(
    served_filled: LiveStack, standin: StandInProcess, questions: Path
) -> None:
    standin.configure(first_token=0.5)
    batch = served_filled.cli.start("batch", questions, "-c", "5")
    out = questions.with_suffix(".answers.jsonl")
    assert wait_until(lambda: out.exists() and bool(out.read_bytes()), 60)
    standin.configure(held=True)
    standin.wait_for(lambda seen: seen["streams_open"] == 5, 30)
    batch.send_signal(signal.SIGINT)
    time.sleep(0.5)
    standin.configure()
    said, err = (text.decode() for text in batch.communicate(timeout=60))
    assert batch.returncode == STOPPED
    assert "Traceback" not in said + err
    assert "the same command goes on from there" in err
    kept = results(out)
    assert 5 < len(kept) < 60
    assert chat_calls(standin) == len(kept), "what was under way was waited for, and no more was asked"
    standin.configure()
    summary = served_filled.cli("batch", questions, "--json").json
    assert (summary["earlier"], summary["answered"], summary["left"]) == (len(kept), 60, 0)
    assert chat_calls(standin) == 60


def test_a_budget_ends_it_and_a_larger_one_goes_on(
    served_filled: LiveStack, standin: StandInProcess, questions: Path
) -> None:
    cost = 0.0001
    stopped = served_filled.cli("batch", questions, "-c", "4", "--budget", f"{20 * cost}", "--json")
    spent = json.loads(stopped.out)
    assert stopped.status == NOT_FINISHED
    assert (spent["stopped"], spent["left"]) == ("budget", 60 - spent["answered"])
    mean = spent["cost_usd"] / spent["answered"]
    assert 20 * cost - mean < spent["cost_usd"] < 20 * cost + 4 * mean, (
        "four were asked before it was known what one costs"
    )
    assert served_filled.cli("batch", questions, "--budget", "1", "--json").json["answered"] == 60
    assert chat_calls(standin) == 60


def test_failures_are_counted_by_cause_and_asked_again(
    served_filled: LiveStack, standin: StandInProcess, corpus: Corpus, tmp_path: Path
) -> None:
    rows = tmp_path / "questions.csv"
    rows.write_text("id,question,topic\n" + "".join(f'q{n},"{corpus.questions[n]}",t{n}\n' for n in range(6)))
    standin.configure(faults=[{"kind": "status", "status": 401, "endpoint": "chat", "count": 2}])
    failed = served_filled.cli("batch", rows, "--in-order", "--json")
    summary = json.loads(failed.out)
    assert (failed.status, summary["failures"], summary["answered"]) == (1, {"AuthenticationFailed": 2}, 4)
    assert served_filled.cli("batch", rows, "--keep-failed").status == 1
    mended = served_filled.cli("batch", rows, "--in-order")
    assert mended.status == 0, mended
    assert "6 answered, 0 failed, 0 left · 4 were there before" in mended.out
    found = results(tmp_path / "questions.answers.jsonl")
    assert [(result["id"], result["extra"]) for result in found] == [(f"q{n}", {"topic": f"t{n}"}) for n in range(6)]
    assert all(result["answer"]["citations"] and result["answer"]["usage"]["cost_usd"] for result in found)
    other = tmp_path / "other.txt"
    other.write_text(f"{corpus.questions[0]}\n")
    mixed = served_filled.cli("batch", other, "--out", tmp_path / "questions.answers.jsonl")
    assert f"also holds 6 results of no question in {other}" in mixed.err
    assert len(results(tmp_path / "questions.answers.jsonl")) == 7


def test_standard_input_is_answered_on_standard_output(
    served_filled: LiveStack, standin: StandInProcess, corpus: Corpus
) -> None:
    asked = "".join(json.dumps({"question": text, "id": n}) + "\n" for n, text in enumerate(corpus.questions[:5]))
    outcome = served_filled.cli("batch", "-", "--format", "jsonl", "--in-order", stdin=asked.encode())
    assert outcome.status == 0, outcome
    assert [json.loads(line)["id"] for line in outcome.out.splitlines()] == ["0", "1", "2", "3", "4"]
    assert "5 answered, 0 failed, 0 left" in outcome.err


def test_what_cannot_be_asked_is_refused_before_anything_is_paid_for(
    served_filled: LiveStack, standin: StandInProcess, tmp_path: Path
) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('"Who?"\n{"question": "Why?", "kb": "nowhere"}\n')
    other = tmp_path / "questions.txt"
    other.write_text("Who?\n")
    (tmp_path / "mine.txt").write_text("No result.\n")
    missing = tmp_path / "missing" / "x.jsonl"
    commands = {
        ("batch", other, "--out", missing): f"{missing} can't be written: No such file or directory.",
        ("batch", file): "line 2: There is no knowledge base 'nowhere'.",
        ("batch", other, "--kb", "gone"): "There is no knowledge base 'gone'.",
        ("batch", other, "--budget", "1", "--model", "unheard-of"): "The price of unheard-of is unknown",
        ("batch", other, "--out", tmp_path / "mine.txt"): "line 1: this is no result of a batch.",
    }
    for outcome, said in zip(served_filled.cli.at_once(list(commands), processes=2), commands.values(), strict=True):
        assert said in outcome.error(2)
    assert len(list(tmp_path.iterdir())) == 3
    assert standin.counters()["calls"] == {}
