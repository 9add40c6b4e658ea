"""A question that failed, looked at, mended and asked again; an answer explained, and made again another way.

What the commands are made of is tested over real workers in ``tests/integration/test_replaying.py``.
"""

from __future__ import annotations

from tests.acceptance.conftest import Corpus
from tests.acceptance.live_stack import LiveStack
from tests.standin.fixture import StandInProcess

STAGES = ["guard", "embed", "search", "enrich", "generate", "record"]


def test_what_failed_is_kept_and_when_it_is_mended_answered_from_there_on(
    served_filled: LiveStack, standin: StandInProcess, corpus: Corpus
) -> None:
    cli, text = served_filled.cli, corpus.questions[4]
    standin.configure(faults=[{"kind": "status", "status": 401, "endpoint": "chat"}])
    assert cli("ask", text).status == 1
    old = str(served_filled.question(text)["id"])
    assert cli("dead", "list", "--since", "5m", "--json").json[0]["question_id"] == old

    explained = cli("explain", old[:18])
    assert explained.status == 0, explained
    shown = ("failed at generate: AuthenticationFailed", *STAGES[:-1], "░", "█", "keyword", "until its deadline")
    assert [each for each in shown if each not in explained.out] == []
    assert f"dead replay {old}" in explained.err

    standin.reset()
    unreachable = cli.with_environment(REDIS_URL="redis://127.0.0.1:1/0")("dead", "replay", old)
    assert "Redis can't be reached" in unreachable.error(1)
    done = cli("dead", "replay", "--all", "--cause", "AuthenticationFailed", "--since", "5m", "--follow", "--json").json
    (replayed,) = (one for one in done if one["replay_of"] == old)  # other tests may have left letters of that cause
    assert replayed["began_at"] == "generate"
    assert replayed["answer"]["citations"]
    assert standin.counters()["calls"] == {"chat 200": len(done)}  # nothing was embedded again
    letter = cli("dead", "show", old, "--json").json
    assert (letter["replayed_as"], letter["attempts"]) == (replayed["id"], 1)
    assert letter["state"]["passages"]
    assert cli("dead", "drop", old, "--json").json == {"dropped": 1}


def test_an_answer_is_made_again_with_other_options_and_compared(
    served_filled: LiveStack, standin: StandInProcess, corpus: Corpus
) -> None:
    cli = served_filled.cli
    old = cli("ask", corpus.questions[9], "--json").json["question_id"]
    compared = cli("replay", old, "--from", "search", "--set", "top_k=2", "--json").json
    assert (compared["began_at"], compared["answer"]["question_id"]) == ("guard", compared["id"])
    assert (compared["before"]["passages"], compared["after"]["passages"]) == (5, 2)
    assert (compared["passages"]["kept"], len(compared["passages"]["lost"])) == (2, 3)
    assert compared["after"]["input_tokens"] < compared["before"]["input_tokens"]

    printed = cli("replay", old, "--from", "generate", "--set", "model=gpt-5-mini", "--follow")
    assert printed.status == 0, printed
    assert "gpt-5-mini" in printed.out
    assert "5 passages are in both" in printed.err
    explained = cli("explain", old, "--json").json
    assert [stage["stage"] for stage in explained["stages"]] == STAGES
    assert (explained["replays"][0], len(explained["replays"])) == (compared["id"], 2)
    assert "Did you mean top_k?" in cli("replay", old, "--from", "search", "--set", "topk=3").error(2)
