"""``manage.py chat``, ``ask --conversation`` and ``conversations``."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from tests.acceptance.live_stack import LiveStack, wait_until
from tests.standin.fixture import StandInProcess

TEXTS = {
    "bread": "Sourdough bread is made of flour, water and salt. Sourdough bread is ready after twenty hours.",
    "passport": "How long does it take to get a passport? A passport takes six weeks.",
    "bathroom": "How long does it take to build a bathroom? A bathroom takes a month.",
}
FIRST = "How is sourdough bread made?"
FOLLOW_UP = "And how long does it take?"
FULL = "After how long is sourdough bread ready?"
KB = "kitchen"
ID = re.compile(r"--conversation ([0-9a-f-]{36})")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kitchen")
    for name, text in TEXTS.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def kitchen(served: LiveStack, texts: Path) -> LiveStack:
    """``served`` with a knowledge base in which a follow-up question alone finds something else."""
    assert served.cli("ingest", texts, "--kb", KB, "--json").json["indexed"] == len(TEXTS)
    return served


def lines(*typed: str) -> bytes:
    return "".join(f"{line}\n" for line in typed).encode()


def test_a_follow_up_finds_what_it_could_not_have_found_alone(kitchen: LiveStack, standin: StandInProcess) -> None:
    alone = kitchen.cli("ask", FOLLOW_UP, "--kb", KB, "--json").json
    assert alone["passages"][0]["title"] in ("passport", "bathroom")
    assert alone["standalone"] == ""
    first = kitchen.cli("ask", FIRST, "--kb", KB, "--conversation", "new", "--json").json
    standin.configure(rewriting=FULL)
    second = kitchen.cli("ask", FOLLOW_UP, "--conversation", first["conversation"])
    assert "twenty hours" in second.out
    assert f"looked for: {FULL}" in second.err
    assert ID.search(second.err)
    asked = kitchen.question(FOLLOW_UP)
    explained = kitchen.cli("explain", str(asked["id"]), "--json").json
    assert explained["standalone"] == FULL
    assert explained["conversation"] == {"conversation": first["conversation"], "number": 2}
    assert "transform" in [stage["stage"] for stage in explained["stages"]]


def test_a_session_through_a_pipe(kitchen: LiveStack, standin: StandInProcess) -> None:
    """Two questions, a look at the second's context and sources, and the second anew in its own place."""
    standin.configure(rewriting=FULL)
    typed = lines(
        FIRST, FOLLOW_UP, "/context", "/sources", "", "/retry", "/nonsense", "?!", "/help", "/exit", "Not asked."
    )
    outcome = kitchen.cli("chat", "--kb", KB, stdin=typed)
    assert outcome.status == 0, outcome
    assert outcome.out.count("ready after twenty hours. [1]\n") == 2
    assert f"asked:      {FOLLOW_UP}\nlooked for: {FULL}\n" in outcome.out
    assert "── bread (score" in outcome.out
    assert "[1] bread\n" in outcome.out
    assert "“Sourdough bread is ready after twenty hours.”" in outcome.out
    assert "/retry    ask the last question anew" in outcome.out
    errors = [line for line in outcome.error_lines if line.startswith("error: ")]
    assert errors == [
        "error: /nonsense is no command. /help lists them.",
        "error: The question holds no word. Ask in words.",
    ]
    found = ID.search(outcome.error_lines[-1])
    assert found is not None
    shown = kitchen.cli("conversations", "show", found[1], "--json").json
    assert [(turn["number"], turn["question"]) for turn in shown["questions"]] == [
        (1, FIRST),
        (2, FOLLOW_UP),
        (2, FOLLOW_UP),
    ]
    assert [turn["replaced"] for turn in shown["questions"]] == [False, True, False]
    assert {turn["standalone"] for turn in shown["questions"][1:]} == {FULL}
    assert kitchen.cli("conversations", "list", "--json").json[0]["title"] == FIRST
    assert FIRST in kitchen.cli("conversations", "show", found[1]).out


def test_a_program_reads_along_and_comes_back(kitchen: LiveStack, standin: StandInProcess) -> None:
    outcome = kitchen.cli("chat", "--kb", KB, "--json", stdin=lines("/retry", FIRST))
    assert (outcome.status, outcome.err) == (0, "")
    events = [json.loads(line) for line in outcome.out.splitlines()]
    names = [event["event"] for event in events]
    assert [name for name in names if name != "text"] == ["error", "conversation", "begin", "answer", "end"]
    written = "".join(event["text"] for event in events if event["event"] == "text")
    assert events[-2]["answer"]["text"] == written
    conversation = events[-1]["conversation"]
    again = kitchen.cli(
        "chat", "--json", "--conversation", conversation, stdin=lines("/context", FOLLOW_UP, "/sources")
    )
    told = {event["event"]: event for event in map(json.loads, again.out.splitlines())}
    assert told["context"]["passages"][0]["text"] == TEXTS["bread"]
    assert told["answer"]["turn"] == {"conversation": conversation, "number": 2}
    assert told["answer"]["answer"]["standalone"] == f"{FOLLOW_UP} ({FIRST})"
    assert told["sources"]["citations"][0]["title"] == "bread"
    assert kitchen.cli("conversations", "delete", conversation, "--yes").status == 0
    assert "has no conversation" in kitchen.cli("chat", "--conversation", conversation).error(2)


def test_ctrl_c_in_mid_answer_comes_back_to_the_prompt(kitchen: LiveStack, standin: StandInProcess) -> None:
    question = "Of what is sourdough bread made?"
    standin.configure(chunks=500, stream_seconds=50)
    chat = kitchen.cli.start_typing("chat", "--kb", KB)
    assert chat.stdin is not None
    chat.stdin.write(lines(question))
    chat.stdin.flush()
    standin.wait_for(lambda seen: seen["streams_open"] == 1, 30)
    chat.send_signal(signal.SIGINT)
    standin.wait_for(lambda seen: len(seen["closed_early"]) == 1, 10)
    assert wait_until(lambda: kitchen.question(question)["status"] == "cancelled", 10)
    standin.reset()
    out, err = chat.communicate(lines(FIRST), timeout=30)
    assert chat.returncode == 0, err
    assert "flour, water and salt" in out.decode()
    assert "Cancelled question" in err.decode()
    assert ID.search(err.decode())


def test_ctrl_c_at_the_prompt_leaves(kitchen: LiveStack, standin: StandInProcess) -> None:
    chat = kitchen.cli.start_typing("chat", "--kb", KB, "--json")
    assert chat.stdin is not None
    assert chat.stdout is not None
    chat.stdin.write(lines("/help"))
    chat.stdin.flush()
    assert b"help" in chat.stdout.readline(), "it has begun to read"
    chat.send_signal(signal.SIGINT)
    out, err = chat.communicate(timeout=20)
    assert (chat.returncode, out and json.loads(out), err) == (0, {"event": "end", "conversation": None}, b"")


def test_a_turn_that_fails_is_told_in_one_line_and_the_next_one_is_asked(
    kitchen: LiveStack, standin: StandInProcess
) -> None:
    standin.configure(faults=[{"kind": "status", "status": 401, "endpoint": "chat", "count": 1}])
    outcome = kitchen.cli("chat", "--kb", KB, "--local", stdin=lines(FIRST, "What takes six weeks?"))
    assert outcome.status == 0
    assert len([line for line in outcome.error_lines if line.startswith("error: ")]) == 1
    assert "six weeks" in outcome.out


def test_without_a_model_a_follow_up_is_understood_by_a_rule(offline: LiveStack, texts: Path) -> None:
    assert offline.cli("ingest", texts, "--kb", KB, "--json").json["indexed"] == len(TEXTS)
    outcome = offline.cli("chat", "--kb", KB, "--local", stdin=lines(FIRST, FOLLOW_UP, "/context"))
    assert outcome.status == 0, outcome
    assert "twenty hours" in outcome.out
    assert f"looked for: {FOLLOW_UP} (sourdough bread made)" in outcome.out


def test_another_tenants_conversation_and_another_knowledge_bases_are_refused(kitchen: LiveStack) -> None:
    begin = "INSERT INTO conversations VALUES (gen_random_uuid(), %s, %s) RETURNING id::text"
    theirs, ours = (kitchen.sql(begin, tenant, KB)[0]["id"] for tenant in ("acme", "default"))
    refused = kitchen.cli.at_once(
        [
            ("chat", "--conversation", theirs),
            ("ask", FIRST, "--conversation", theirs),
            ("chat", "--conversation", ours, "--kb", "default"),
            ("ask", FIRST, "--conversation", "last"),
        ],
        processes=2,
    )
    told = ["has no conversation", "has no conversation", f"is with knowledge base '{KB}'", "no id of a conversation"]
    assert all(text in outcome.error(2) for outcome, text in zip(refused, told, strict=True))
