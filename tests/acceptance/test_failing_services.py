"""A service that fails: one clear line and exit status 1 in bounded time, and no question or run without an end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.acceptance.conftest import KEY, Corpus
from tests.acceptance.live_stack import LiveStack
from tests.command_line import CommandLine
from tests.standin.fixture import StandInProcess
from tests.workers import WorkerProcess

CLOSED = "127.0.0.1:1"
NAMESPACE = "weaviate-is-down"


class TestModels:
    """``served``, whose stand-in misbehaves."""

    def test_without_a_fault_a_model_answers_and_is_paid_for(
        self, served_filled: LiveStack, standin: StandInProcess, corpus: Corpus
    ) -> None:
        answer = served_filled.cli("ask", corpus.questions[0], "--json").json
        row = served_filled.question(corpus.questions[0])
        assert (answer["mode"], bool(answer["citations"])) == ("generated", True)
        assert row["output_tokens"] > 0
        assert row["embedding_tokens"] > 0
        assert row["cost_usd"] > 0
        assert standin.counters()["calls"] == {"embeddings 200": 1, "chat 200": 1}

    def test_several_read_along_an_answer_that_somebody_else_asked_for(
        self, served_filled: LiveStack, standin: StandInProcess, corpus: Corpus
    ) -> None:
        standin.configure(first_token=2.0, stream_seconds=3.0, chunks=30)
        asked = served_filled.cli("ask", corpus.questions[5], "--detach").out.strip()
        read = served_filled.cli.at_once([("result", asked, "--follow")] * 2)
        assert [outcome.status for outcome in read] == [0, 0], read
        (text,) = {outcome.out.split("\n\n")[0] for outcome in read}
        assert text.startswith(served_filled.cli("result", asked, "--json").json["text"])
        assert standin.counters()["calls"]["chat 200"] == 1

    def test_a_wrong_key(self, served_filled: LiveStack, standin: StandInProcess) -> None:
        standin.configure(api_key="sk-another")
        outcome = served_filled.cli("ask", "Who has the wrong key?")
        assert "openai answered 401: the key is not accepted" in outcome.error(1)
        assert KEY not in outcome.err
        assert _cause(served_filled, "Who has the wrong key?") == "AuthenticationFailed"
        assert standin.counters()["calls"] == {"embeddings 401": 1}  # trying again could not help
        assert _seconds(served_filled, "Who has the wrong key?") < 10

    def test_an_unknown_model(self, served_filled: LiveStack, standin: StandInProcess) -> None:
        standin.configure(models=["text-embedding-3-small", "gpt-5-mini"])
        outcome = served_filled.cli("ask", "Which model is that?", "--model", "gpt-nonsense")
        assert "it has no model 'gpt-nonsense'" in outcome.error(1)
        assert _cause(served_filled, "Which model is that?") == "ModelNotFound"

    @pytest.mark.parametrize(
        ("fault", "said"),
        [
            ({"kind": "status", "status": 429, "retry_after": 1}, "openai answered 429"),
            ({"kind": "status", "status": 429, "retry_after": 3600}, "openai answered 429"),
            ({"kind": "status", "status": 500}, "openai answered 500"),
            ({"kind": "hang"}, "openai gave no complete answer in"),
            ({"kind": "hang", "after_chunks": 3}, "openai gave no complete answer in"),
        ],
        ids=["429", "429 for an hour", "500", "hang", "hang in mid-answer"],
    )
    def test_a_fault_for_ever_ends_in_time_with_sentences_of_the_passages(
        self, served_filled: LiveStack, standin: StandInProcess, corpus: Corpus, fault: dict[str, object], said: str
    ) -> None:
        standin.configure(faults=[{**fault, "endpoint": "chat"}])
        answer = served_filled.cli("ask", corpus.questions[4], "--timeout", "12", "--json").json
        (loss,) = [loss for loss in answer["degraded"] if loss["stage"] == "generate"]
        assert (loss["mode"], said in loss["reason"]) == ("extractive", True), loss
        assert (answer["mode"], bool(answer["citations"])) == ("extractive", True)
        assert _seconds(served_filled, corpus.questions[4]) < 14

    def test_who_wants_no_lesser_answer_is_told_the_cause(
        self, served_filled: LiveStack, standin: StandInProcess, corpus: Corpus
    ) -> None:
        standin.configure(faults=[{"kind": "status", "status": 500, "endpoint": "chat"}])
        outcome = served_filled.cli("ask", corpus.questions[4], "--timeout", "20", "--strict")
        assert "openai answered 500" in outcome.error(1)
        assert _cause(served_filled, corpus.questions[4]) == "ServerFault"

    def test_a_fault_that_passes_is_not_seen(
        self, served_filled: LiveStack, standin: StandInProcess, corpus: Corpus
    ) -> None:
        standin.configure(faults=[{"kind": "status", "status": 503, "endpoint": "chat", "count": 2}])
        answer = served_filled.cli("ask", corpus.questions[3], "--json").json
        attempts = {timing["stage"]: timing["attempt"] for timing in answer["timings"]}
        assert answer["citations"]
        assert attempts["generate"] == 3

    def test_an_ingest_without_embeddings_says_why(
        self, served: LiveStack, standin: StandInProcess, tmp_path: Path
    ) -> None:
        standin.configure(faults=[{"kind": "status", "status": 401, "endpoint": "embeddings"}])
        (tmp_path / "a.txt").write_text("Never embedded.")
        outcome = served.cli("ingest", tmp_path, "--kb", "unembedded")
        assert outcome.status == 1, outcome
        assert "a.txt: openai answered 401" in outcome.out
        assert "Traceback" not in outcome.out + outcome.err
        standin.reset()
        assert served.cli("ingest", tmp_path, "--kb", "unembedded", "--json").json["indexed"] == 1

    def test_nothing_is_left_open_and_no_log_or_command_line_holds_the_key(self, served: LiveStack) -> None:
        assert served.settles(), served.open_rows()
        assert KEY not in served.logs()
        assert not [p.pid for p in psutil.process_iter(["cmdline"]) if KEY in " ".join(p.info["cmdline"] or [])]
        assert not served.sql("SELECT id FROM questions q WHERE q::text LIKE '%%' || %s || '%%'", KEY)


class TestRedisIsDown:
    def test_whoever_needs_it_says_so(self, filled: LiveStack, corpus: Corpus) -> None:
        cli = filled.cli.with_environment(REDIS_URL=f"redis://:hush@{CLOSED}/0")
        for command in (("ask", "Is Redis there?"), ("ask", "Is Redis there?", "--detach"), ("ingest", corpus.file)):
            outcome = cli(*command)
            assert outcome.status == 1, outcome
            assert "error: Redis can't be reached: " in outcome.error_lines[-1]
            assert "Traceback" not in outcome.err
            assert "hush" not in outcome.err
        assert _seconds(filled, "Is Redis there?") < 10
        assert filled.question("Is Redis there?")["error"]["code"] == "Unreachable"
        assert filled.sql("SELECT status FROM runs ORDER BY created_at DESC LIMIT 1")[0]["status"] == "failed"
        assert filled.open_rows() == []

    def test_who_does_not_need_it_works(self, filled: LiveStack, corpus: Corpus) -> None:
        cli = filled.cli.with_environment(REDIS_URL=f"redis://{CLOSED}/0")
        assert cli("ask", corpus.questions[0], "--local", "--json").json["citations"]

    def test_status_and_doctor_tell(self, filled: LiveStack) -> None:
        cli = filled.cli.with_environment(REDIS_URL=f"redis://{CLOSED}/0")
        _assert_told(cli, "redis", "Redis can't be reached")


class TestPostgresIsDown:
    def test_whoever_needs_it_says_so(self, filled: LiveStack, corpus: Corpus) -> None:
        cli = filled.cli.with_environment(DATABASE_URL=f"postgresql://celeriac:hush@{CLOSED}/x")
        commands = (("ask", "hi"), ("ask", "hi", "--local"), ("ingest", corpus.file), ("kb", "list"), ("search", "hi"))
        for outcome in cli.at_once(commands, processes=3):
            assert "Postgres can't be reached: " in outcome.error(1)
            assert "hush" not in outcome.err

    def test_status_and_doctor_tell(self, filled: LiveStack) -> None:
        cli = filled.cli.with_environment(DATABASE_URL=f"postgresql://celeriac:hush@{CLOSED}/x")
        _assert_told(cli, "postgres", "Postgres can't be reached")


@pytest.fixture(scope="module")
def without_weaviate(offline: LiveStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A command line and one worker that were told of a Weaviate which isn't there."""
    down = {
        "WEAVIATE_URL": f"http://{CLOSED}",
        "CELERIAC_NAMESPACE": NAMESPACE,
        "CELERIAC_MAX_RETRIES": "1",
        # Over before the sweep of the other stack, on the same database, finds the run without a message.
        "CELERIAC_INGEST_PATIENCE": "2",
    }
    environment = {**offline.environment, **down, "CELERIAC_HOME": str(offline.home)}
    worker = WorkerProcess(environment, tmp_path_factory.mktemp("worker") / "log", name="lonely")
    try:
        worker.wait_until_ready()
        yield offline.cli.with_environment(**down)
    finally:
        worker.stop()


class TestWeaviateIsDown:
    def test_a_question_says_so(self, without_weaviate: CommandLine, offline: LiveStack) -> None:
        assert without_weaviate("kb", "create", "unreachable").status == 0
        offline.sql("UPDATE knowledge_bases SET chunk_count = 1 WHERE name = 'unreachable'")
        for more in ((), ("--local",)):
            outcome = without_weaviate("ask", "Is Weaviate there?", "--kb", "unreachable", "--timeout", "20", *more)
            assert "error: Weaviate: " in outcome.error(1)
            assert offline.question("Is Weaviate there?")["error"]["detail"]["upstream"] == "weaviate"

    def test_an_ingest_says_so_for_each_document(self, without_weaviate: CommandLine, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("Some text.")
        outcome = without_weaviate("ingest", tmp_path, "--kb", "unreachable")
        assert outcome.status == 1, outcome
        assert "a.txt: Weaviate: " in outcome.out
        assert "Traceback" not in outcome.out + outcome.err

    def test_nothing_is_left_open(self, without_weaviate: CommandLine, offline: LiveStack) -> None:
        assert offline.settles(), offline.open_rows()


def _seconds(stack: LiveStack, text: str) -> float:
    """What the newest question of that text took, on record: without the start of a command."""
    row = stack.question(text)
    return float((row["finished_at"] - row["submitted_at"]).total_seconds())


def _cause(stack: LiveStack, text: str) -> str:
    """The code of the error on record; the question must be over by the time its owner is told."""
    row = stack.question(text)
    assert row["status"] == "failed"
    return str(row["error"]["code"])


def _assert_told(cli: CommandLine, part: str, said: str) -> None:
    status, doctor = cli.at_once([("status",), ("doctor",)])
    for outcome in (status, doctor):
        assert outcome.status == 1, outcome
        assert said in outcome.out
        assert part in outcome.out
        assert "Traceback" not in outcome.out + outcome.err
        assert "hush" not in outcome.out + outcome.err
