"""The same question twice, by the command line."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.live_stack import LiveStack, wait_until
from tests.standin.fixture import StandInProcess

QUESTION = "Where does the river Volga flow?"


def test_a_question_is_paid_for_once_until_its_knowledge_base_changes(
    served: LiveStack, standin: StandInProcess, tmp_path: Path
) -> None:
    """Given a stack whose setting is off, when ``--cache`` allows it, then the second answer is the first one."""
    (tmp_path / "volga.txt").write_text("The river Volga flows into the Caspian Sea.")
    assert served.cli("ingest", tmp_path, "--kb", "rivers", "--json").json["indexed"] == 1
    standin.reset()

    def ask(*options: str) -> dict[str, object]:
        answer: dict[str, object] = served.cli("ask", QUESTION, "--kb", "rivers", "--json", *options).json
        return answer

    first, second = ask("--cache"), ask("--cache")
    assert standin.counters()["calls"] == {"embeddings 200": 1, "chat 200": 1}
    assert (second["text"], second["citations"]) == (first["text"], first["citations"])
    row = served.sql("SELECT * FROM questions WHERE id = %s", second["question_id"])[0]
    assert (row["status"], row["input_tokens"], row["output_tokens"], float(row["cost_usd"])) == ("done", 0, 0, 0.0)
    explained = served.cli("explain", str(second["question_id"]), "--json").json
    assert [stage["stage"] for stage in explained["stages"]] == ["guard", "generate", "record"]
    # The answer that is told may be a moment ahead of the one that is kept.
    assert explained["stages"][1]["cached"] in ("memory", "redis", "shared")

    ask("--no-cache")
    assert standin.counters()["calls"] == {"embeddings 200": 2, "chat 200": 2}

    (tmp_path / "volga.txt").write_text("The river Volga flows into the Black Sea, says somebody.")
    served.cli("ingest", tmp_path, "--kb", "rivers", "--json")
    changed = ask("--cache")
    assert "Black Sea" in str(changed["text"])
    assert wait_until(lambda: _answers(served)["asked"] >= 3, 60)
    rates = _answers(served)
    assert rates["memory"] + rates["redis"] + rates["shared"] == 1
    assert rates["hit_rate"] is not None


def _answers(stack: LiveStack) -> dict[str, int]:
    caches: list[dict[str, int]] = stack.cli("status", "--json").json["caches"]
    return caches[0]
