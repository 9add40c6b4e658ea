"""What can't be used is refused in one line, with exit status 2, or 1 where documents failed; nothing is left open."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.acceptance.live_stack import LiveStack
from tests.command_line import CommandLine

MB = 1_000_000
SOON = 15.0
"""Seconds; bad input is refused in one or two, but the machine may be busy."""


@pytest.fixture(scope="module")
def cli(filled: LiveStack) -> CommandLine:
    return filled.cli


COMMANDS: list[tuple[tuple[str | bytes, ...], str]] = [
    (("ask", ""), "empty"),
    (("ask", "?!"), "no word"),
    (("ask", "x" * 8001), "8,001 characters"),
    (("ask", b"caf\xe9 \xff"), "wrong encoding"),
    (("ask", "a\x1b[31mb"), "U+001B"),
    (("ask", "hi", "--kb", "no-such"), "no knowledge base 'no-such'"),
    (("ask", "hi", "--kb", "k" * 5000), "no knowledge base 'kkk"),
    (("ask", "hi", "--kb", b"\xff"), "not UTF-8"),
    (("ask", "hi", "--local", "--detach"), "exclude each other"),
    (("ask",), "Missing argument"),
    (("ask", "hi", "--bogus"), "No such option: --bogus"),
    (("ask", "hi", "--top-k", "0"), "--top-k"),
    (("ask", "hi", "--fusion", "magic"), "scores or rrf"),
    (("bogus",), "No such command 'bogus'"),
    (("result", "x"), "no id of a question"),
    (("result", "00000000-0000-4000-8000-000000000000"), "no question"),
    (("ingest", "/no/such/path", "--kb", "never-made"), "No such file"),
    (("ingest", "/dev/null"), "not a regular file"),
    (("eval", "/no/such/path"), "isn't there"),
    (("kb", "create", "a\x1b[31mb"), "can't be the name"),
    (("kb", "create", "default"), "exists already"),
    (("docs", "show", b"\xff"), "not UTF-8"),
    (("docs", "delete", "no-such", "--yes"), "no document 'no-such'"),
    (("docs", "list", "--status", "odd"), "--status 'odd'"),
    (("kb", "delete", "default"), "Give --yes: there is no terminal to ask at."),
    (("dead", "drop", "--all"), "Give --yes: there is no terminal to ask at."),
    (("up",), "is up already"),
]

SETTINGS = [
    ("CELERIAC_TYPO", "1", "CELERIAC_TYPO is not a setting"),
    ("CELERIAC_TOP_K", "many", "CELERIAC_TOP_K"),
    ("REDIS_URL", "localhost", "REDIS_URL"),
    ("REDIS_URL", "redis://127.0.0.1:port/0", "REDIS_URL"),
    ("REDIS_URL", "redis://user:hush/hush@127.0.0.1:1/0", "REDIS_URL"),
    ("DATABASE_URL", "mysql://root:hush@127.0.0.1/x", "DATABASE_URL names mysql"),
    ("DATABASE_URL", "postgresql://user:hush@127.0.0.1:port/x", "DATABASE_URL is not a URL"),
]


def test_a_command_that_makes_no_sense_is_refused_in_one_line(cli: CommandLine, filled: LiveStack) -> None:
    before = filled.cli("kb", "list", "--json").json
    begun = time.monotonic()
    outcomes = cli.at_once([arguments for arguments, _ in COMMANDS], processes=4)
    spent = time.monotonic() - begun
    for outcome, (_, said) in zip(outcomes, COMMANDS, strict=True):
        assert said in outcome.error(2), outcome
    assert spent < SOON * len(COMMANDS) / 4
    assert filled.cli("kb", "list", "--json").json == before  # a mistyped path leaves no knowledge base behind
    assert filled.settles()


def test_a_setting_that_makes_no_sense_is_refused_in_one_line_without_its_password(cli: CommandLine) -> None:
    for name, value, said in SETTINGS:
        outcome = cli.with_environment(**{name: value})("ask", "hi")
        assert said in outcome.error(2), outcome
        assert "hush" not in outcome.err


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"q" * MB, "1,000,000 characters"),
        (b"\xff\xfe" * 3 * MB, "wrong encoding"),
        (b"caf\xe9", "not UTF-8"),
        (b"a\0b", "U+0000"),
    ],
    ids=["1 MB", "6 MB of no text", "Latin-1", "NUL"],
)
def test_a_question_on_standard_input_is_checked_alike(cli: CommandLine, data: bytes, said: str) -> None:
    outcome = cli("ask", "-", stdin=data)
    # Too long or in the wrong encoding: of both one is enough.
    assert said in outcome.error(2) or (len(data) > MB and "characters" in outcome.error(2)), outcome


def test_with_json_the_error_is_json_too(cli: CommandLine) -> None:
    for arguments in (("ask", "", "--json"), ("ask", "hi", "--bogus", "--json")):
        outcome = cli(*arguments)
        assert outcome.status == 2
        assert json.loads(outcome.err)["error"]["hint"]


def test_an_empty_folder_is_nothing_to_ingest(cli: CommandLine, tmp_path: Path, filled: LiveStack) -> None:
    assert "nothing to ingest" in cli("ingest", tmp_path, "--kb", "empty").error(2)
    assert "is empty" in cli("ask", "Anybody there?", "--kb", "empty").error(2)
    assert filled.open_rows() == []
    assert filled.question("Anybody there?")["error"]["code"] == "EmptyKnowledgeBase"


def test_a_knowledge_base_keeps_its_model_when_the_setting_names_another(cli: CommandLine, tmp_path: Path) -> None:
    file = _written(tmp_path / "a.txt", b"Newts live in ponds.")
    assert cli("ingest", file, "--kb", "keeps").status == 0
    other = cli.with_environment(CELERIAC_EMBEDDING_MODEL="text-embedding-3-large", OPENAI_API_KEY="sk-hush")
    again = other("ingest", file, "--kb", "keeps")
    assert again.status == 0, again
    assert "keeps its model wordllama-256" in again.out + again.err
    found = other("search", "Where do newts live?", "--kb", "keeps", "--alpha", "1", "--json").json["passages"]
    assert "Newts" in found[0]["text"]


def test_workers_refuse_a_run_made_for_another_model_or_store(cli: CommandLine, tmp_path: Path) -> None:
    """The knowledge base is made by who asks for the run, the vectors by who works on it: they must agree."""
    file = _written(tmp_path / "a.txt", b"Some text.")
    other_model = cli.with_environment(CELERIAC_EMBEDDING_MODEL="text-embedding-3-large", OPENAI_API_KEY="sk-hush")
    other_store = cli.with_environment(WEAVIATE_URL="http://127.0.0.1:1")
    for other, said in ((other_model, "no service of models is set"), (other_store, "pgvector is in use")):
        outcome = other("ingest", file, "--kb", f"other-{said.split()[0]}", "--json")
        assert outcome.status in (1, 2), outcome
        run = json.loads(outcome.out)
        assert (run["indexed"], run["failed"]) == (0, 1)
        assert said in run["failures"][0]["message"]


class TestFiles:
    def test_one_that_is_not_what_its_name_says_fails_alone(self, cli: CommandLine, tmp_path: Path) -> None:
        _written(tmp_path / "no.pdf", b"Hello, I am no PDF.")
        _written(tmp_path / "no.docx", b"PK\x03\x04 broken")
        _written(tmp_path / "fine.txt", b"Herons stand in shallow water.")
        outcome = cli("ingest", tmp_path, "--kb", "mixed")
        assert outcome.status == 1, outcome
        assert "1 indexed, 0 unchanged, 2 failed" in outcome.out
        assert [line for line in outcome.out.splitlines() if "no.pdf: It is not a PDF file" in line]
        assert "Traceback" not in outcome.out + outcome.err
        assert cli("ask", "Where do herons stand?", "--kb", "mixed", "--json").json["citations"]
        listed = cli("docs", "list", "--kb", "mixed", "--status", "failed", "--json").json
        assert {row["error"]["code"] for row in listed} == {"ParseFailed"}

    def test_a_line_of_50_megabytes_fails_alone(self, cli: CommandLine, tmp_path: Path) -> None:
        long = b"celeriac soup " * (50 * MB // 14)
        _written(tmp_path / "big.txt", long)
        small = b'{"id": "small", "text": "Otters sleep hand in hand."}\n'
        _written(tmp_path / "big.jsonl", b'{"id": "big", "text": "' + long + b'"}\n' + small)
        outcome = cli("ingest", tmp_path, "--kb", "big")
        assert outcome.status == 1, outcome
        assert "1 indexed, 0 unchanged, 2 failed" in outcome.out
        assert "The record has 50,000,0" in outcome.out.replace("49,999,9", "50,000,0")
        assert "The file has 49,999,9" in outcome.out
        run = cli("runs", "show", "last", "--json").json
        took = datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["created_at"])
        assert took.total_seconds() < 30
        assert cli("ask", "How do otters sleep?", "--kb", "big", "--json").json["citations"]

    def test_a_line_of_one_megabyte_is_indexed(self, cli: CommandLine, tmp_path: Path) -> None:
        words = " ".join(f"word{number}" for number in range(100_000))
        _written(tmp_path / "long.txt", f"{words} The answer is fortytwo.".encode())
        run = cli("ingest", tmp_path, "--kb", "long", "--json").json
        assert (run["indexed"], run["failed"]) == (1, 0)
        found = cli("search", "fortytwo", "--kb", "long", "--json", "--top-k", "1").json["passages"]
        assert "fortytwo" in found[0]["text"]


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
