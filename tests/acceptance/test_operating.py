"""What an operator looks at: status, doctor, Flower, eval, help."""

from __future__ import annotations

import base64
import json
import math
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Corpus
from tests.acceptance.live_stack import LiveStack, wait_until

STAGES = ("guard", "embed", "search", "enrich", "generate", "record")
QUEUES = ("ask", "ingest", "parse", "control")
SEND_CANARY = "from tasks.control import CANARIES; CANARIES['ask'].apply_async((0.0,))"


class TestStatus:
    def test_a_stack_that_is_up_is_healthy(self, offline: LiveStack) -> None:
        status = offline.cli("status", "--json").json
        assert status["healthy"]
        assert {queue["name"]: queue["consumers"] for queue in status["queues"]} == {
            "ask": 2,
            "ingest": 2,
            "parse": 1,
            "control": 1,
        }
        assert {worker["pool"] for worker in status["workers"]} == {"gevent", "prefork"}
        shown = offline.cli("status")
        assert shown.status == 0
        assert "ask-1@" in shown.out

    def test_a_queue_with_messages_and_no_worker_is_told(self, offline: LiveStack) -> None:
        cli = offline.cli.with_environment(CELERIAC_NAMESPACE="nobody-listens", **offline.environment)
        cli.python(SEND_CANARY)
        found = cli("status", "--json")
        assert found.status == 1, found
        queues = {queue["name"]: queue for queue in json.loads(found.out)["queues"]}
        assert queues["ask"] == {"name": "ask", "waiting": 1, "consumers": 0, "deaf": True}
        assert not queues["parse"]["deaf"]
        coloured = cli.with_environment(FORCE_COLOR="1", NO_COLOR=None)("status")
        (line,) = [line for line in coloured.out.splitlines() if "messages wait" in line]
        assert "\x1b[1;31m" in line


class TestDoctor:
    def test_everything_is_checked_and_well(self, offline: LiveStack) -> None:
        report = offline.cli("doctor", "--json").json
        assert report["ok"]
        names = [check["name"] for check in report["checks"]]
        assert names == [
            *("redis", "postgres", "schema", "store: pgvector", "embedder: wordllama-256", "generator: extractive"),
            *(f"queue: {queue}" for queue in QUEUES),
        ]
        assert all(check["detail"] and check["ms"] >= 0 for check in report["checks"])

    def test_a_missing_worker_is_a_failure_with_advice(self, offline: LiveStack) -> None:
        found = offline.cli.with_environment(CELERIAC_NAMESPACE="nobody-works")("doctor", "--json")
        assert found.status == 1, found
        failed = [check for check in json.loads(found.out)["checks"] if not check["ok"]]
        assert [check["name"] for check in failed] == [f"queue: {queue}" for queue in QUEUES]
        assert all("Procfile" in check["hint"] for check in failed)


class TestFlower:
    def test_nobody_gets_in_without_the_login(self, offline: LiveStack) -> None:
        for path in ("/", "/api/tasks", "/api/workers"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                _get(offline, path, password="guessed")
            assert caught.value.code == 401
            caught.value.close()

    def test_the_stages_of_a_finished_question_are_seen_by_name(self, filled: LiveStack, corpus: Corpus) -> None:
        answer = filled.cli("ask", corpus.questions[2], "--json").json
        wanted = {f"{answer['question_id']}.{stage}" for stage in STAGES[:-1]} | {answer["question_id"]}

        def tasks() -> dict[str, Any]:
            return {key: task for key, task in _get(filled, "/api/tasks?limit=500").items() if key in wanted}

        assert wait_until(
            lambda: {task["state"] for task in tasks().values()} == {"SUCCESS"} and len(tasks()) == len(STAGES), 60
        )
        assert {task["name"] for task in tasks().values()} == {f"ask.{stage}" for stage in STAGES}
        assert {task["worker"].split("@")[0] for task in tasks().values()} <= {"ask-1", "ask-2"}

    def test_all_workers_are_seen(self, offline: LiveStack) -> None:
        expected = {"ask-1", "ask-2", "ingest-1", "ingest-2", "parse-1", "control-1"}
        assert wait_until(lambda: {n.split("@")[0] for n in _get(offline, "/api/workers?refresh=1")} == expected, 60)


class TestEval:
    """Two documents and two queries, so that the figures can be worked out by hand."""

    @pytest.fixture
    def collection(self, tmp_path: Path) -> Path:
        """The second query shares words with the volcano alone, but the cat is judged to answer it."""
        folder = tmp_path / "miniature"
        folder.mkdir()
        documents = [("cat", "Cats purr when they are content."), ("volcano", "A volcano throws out lava and ash.")]
        queries = [("q1", "Why do cats purr?"), ("q2", "lava of a volcano")]
        (folder / "corpus.jsonl").write_text(_lines({"_id": i, "title": "", "text": t} for i, t in documents))
        (folder / "queries.jsonl").write_text(_lines({"_id": i, "text": t} for i, t in queries))
        (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tcat\t1\nq2\tcat\t1\n")
        return folder

    def test_the_measures_are_those_worked_out_by_hand(self, offline: LiveStack, collection: Path) -> None:
        found = offline.cli("eval", collection, "--json").json
        second = 1 / math.log2(3)  # the gain of a relevant document in the second place
        assert found["queries"] == 2
        expected = {
            # q1: the cat first; q2: nothing, for only the volcano has its words
            "keyword": {"ndcg@10": 0.5, "recall@5": 0.5, "recall@10": 0.5, "mrr": 0.5},
            # q1: the cat first; q2: the cat second
            "vector": {"ndcg@10": (1 + second) / 2, "recall@5": 1.0, "recall@10": 1.0, "mrr": 0.75},
            "fused": {"ndcg@10": (1 + second) / 2, "recall@5": 1.0, "recall@10": 1.0, "mrr": 0.75},
        }
        for branch, measures in expected.items():
            assert {name: found["branches"][branch][name] for name in measures} == pytest.approx(measures), branch
            assert found["branches"][branch]["ms_p50"] > 0

    def test_the_limit_takes_the_first_queries(self, offline: LiveStack, collection: Path) -> None:
        found = offline.cli("eval", collection, "--limit", "1", "--json").json
        assert found["queries"] == 1
        assert {branch: row["ndcg@10"] for branch, row in found["branches"].items()} == {
            "vector": 1.0,
            "keyword": 1.0,
            "fused": 1.0,
        }

    def test_a_document_that_could_not_be_ingested_is_an_error_after_the_figures(
        self, offline: LiveStack, collection: Path
    ) -> None:
        corpus = collection / "corpus.jsonl"
        corpus.write_text(corpus.read_text() + '\n{"_id": "empty", "title": "", "text": ""}')
        outcome = offline.cli("eval", collection, "--json")
        assert outcome.status == 1, outcome
        assert "1 of 3 documents could not be ingested" in json.loads(outcome.err)["error"]["message"]
        assert json.loads(outcome.out)["branches"]["fused"]["mrr"] == 0.75

    def test_people_get_a_table(self, offline: LiveStack, collection: Path) -> None:
        shown = offline.cli("eval", collection)
        assert shown.status == 0, shown
        assert "miniature: 2 queries, pgvector, wordllama-256" in shown.out
        assert [line.split()[:2] for line in shown.out.splitlines()[2:]] == [
            ["vector", "0.815"],
            ["keyword", "0.500"],
            ["fused", "0.815"],
        ]

    def test_a_damaged_collection_is_refused_in_one_line(self, offline: LiveStack, collection: Path) -> None:
        damages = {"queries.jsonl": "no json\n", "qrels.tsv": "a\tb\n1\t2\n"}
        for name, damage in damages.items():
            kept = (collection / name).read_text()
            (collection / name).write_text(damage)
            assert name in offline.cli("eval", collection).error(2)
            (collection / name).write_text(kept)


class TestCommands:
    def test_every_command_explains_itself(self, offline: LiveStack) -> None:
        groups: dict[str, tuple[str, ...]] = {"kb": ("list", "create", "show", "delete"), "docs": ("list", "show")}
        plain = ("up", "down", "status", "ask", "result", "search", "ingest", "eval", "doctor", "kb", "docs")
        commands = [(), *((name,) for name in plain), *((g, name) for g, names in groups.items() for name in names)]
        for command, shown in zip(
            commands, offline.cli.at_once([(*c, "--help") for c in commands], processes=3), strict=True
        ):
            assert shown.status == 0, shown
            assert "Usage: manage.py" in shown.out
            assert command in ((), ("kb",), ("docs",)) or "--json" in shown.out, shown

    def test_a_knowledge_base_from_its_making_to_its_end_in_json(self, offline: LiveStack, tmp_path: Path) -> None:
        (tmp_path / "one.txt").write_text("A document about looms.")
        (tmp_path / "two.txt").write_text("A document about anvils.")
        cli = offline.cli
        assert cli("kb", "create", "life", "--json").json["chunks"] == 0
        assert cli("ingest", tmp_path, "--kb", "life", "--json").json["indexed"] == 2
        one, _two = cli("docs", "list", "--kb", "life", "--json").json
        assert cli("docs", "show", one["id"], "--kb", "life", "--json").json["key"] == str(tmp_path / "one.txt")
        assert cli("docs", "delete", one["key"], "--kb", "life", "--yes", "--json").json["deleted"] == one["key"]
        assert cli("kb", "show", "life", "--json").json["documents"] == 1
        found = cli("search", "looms", "--kb", "life", "--json").json["passages"]
        assert not any("looms" in passage["text"] for passage in found)
        assert cli("kb", "delete", "life", "--yes", "--json").json["deleted"] == "life"
        assert "life" not in [kb["name"] for kb in cli("kb", "list", "--json").json]
        assert offline.sql("SELECT id FROM documents WHERE key LIKE %s", f"{tmp_path}%") == []


def _get(stack: LiveStack, path: str, password: str = "") -> Any:
    access = stack.state.flower
    assert access is not None
    login = base64.b64encode(f"{access.user}:{password or access.password}".encode()).decode()
    request = urllib.request.Request(access.url + path, headers={"Authorization": f"Basic {login}"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def _lines(records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
