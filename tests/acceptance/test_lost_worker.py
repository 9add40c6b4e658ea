"""kill -9 of a worker in the middle of its work."""

from __future__ import annotations

import json
import os
import signal
import time

from tests.acceptance.conftest import Corpus
from tests.acceptance.live_stack import LiveStack, wait_until
from tests.standin.fixture import StandInProcess

COUNT = 50
WITHIN = 60.0
LATENCY = 12.0
"""Shorter than the silence after which the model is given up; nobody is answered before a worker is killed."""

ASK_MANY = """
import json, sys
from deploy.console.context import client_of, current_parts
client = client_of(current_parts())
print(json.dumps([client.submit(client.question(text)) for text in json.load(sys.stdin)]))
"""


def test_all_questions_of_a_killed_worker_are_answered_once(
    served_filled: LiveStack, standin: StandInProcess, corpus: Corpus
) -> None:
    """The killed worker holds questions in every stage, and messages it has prefetched and not begun."""
    standin.configure(first_token=LATENCY)
    texts = [f"{corpus.questions[number % 20]} (copy {number})" for number in range(COUNT)]

    ids = json.loads(served_filled.cli.python(ASK_MANY, json.dumps(texts)))
    workers = [served_filled.state.processes[name].pid for name in ("ask-1", "ask-2")]
    wait_until(lambda: sum(_held_by(served_filled, pid) for pid in workers) >= COUNT, 8)
    held, victim = max((_held_by(served_filled, pid), pid) for pid in workers)
    assert held > COUNT / 4
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    standin.configure(first_token=1.0)

    assert wait_until(lambda: _over(served_filled, ids) == COUNT, WITHIN), _over(served_filled, ids)
    print(f"{held} messages held by the killed worker; all answered {time.monotonic() - killed:.1f} s later")
    rows = served_filled.sql("SELECT * FROM questions WHERE id = ANY(%s::uuid[])", ids)
    assert {(row["status"], row["outcome"]) for row in rows} == {("done", "answered")}
    stages = served_filled.sql(
        "SELECT question_id, count(*) AS n, count(DISTINCT stage) AS kinds FROM stage_timings "
        "WHERE question_id = ANY(%s::uuid[]) AND error = '' GROUP BY question_id",
        ids,
    )
    assert [(row["n"], row["kinds"]) for row in stages] == [(6, 6)] * COUNT  # nothing reranks
    for outcome in served_filled.cli.at_once([("result", question, "--json") for question in ids[:2]]):
        assert outcome.json["citations"]
    assert wait_until(lambda: _is_back(served_filled, victim), 60), "the supervisor starts it again"


def _over(stack: LiveStack, ids: list[str]) -> int:
    query = "SELECT count(*) AS n FROM questions WHERE id = ANY(%s::uuid[]) AND status <> 'queued'"
    return int(stack.sql(query, ids)[0]["n"])


def _held_by(stack: LiveStack, pid: int) -> int:
    """Messages that the worker with this process has taken and not acknowledged."""
    with stack.redis() as client:
        reports = [json.loads(client.get(key) or "{}") for key in client.keys("celeriac:worker:*")]
        tokens = [report["token"] for report in reports if report.get("pid") == pid]
        return sum(int(client.hlen(f"celeriac:unacked:{token}")) for token in tokens)


def _is_back(stack: LiveStack, old: int) -> bool:
    with stack.redis() as client:
        reports = [json.loads(client.get(key) or "{}") for key in client.keys("celeriac:worker:*")]
    return any(r.get("name", "").startswith("ask-1@") and r["pid"] != old for r in reports)
