"""Another embedding model while people go on asking, and while a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

import pytest

from tests.acceptance.live_stack import LiveStack, wait_until
from tests.standin.fixture import StandInProcess

DOCUMENTS, KB = 300, "reembedded"
OLD, NEW, SIZE = "text-embedding-3-small", "text-embedding-3-large", "64"
PATIENCE = 90.0


class Asking:
    """Someone who asks one question after the other; ``outcomes`` says what became of each."""

    def __init__(self, stack: LiveStack) -> None:
        self.outcomes: list[str] = []
        self._end = threading.Event()
        self._stack = stack
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(PATIENCE)

    def _ask(self) -> None:
        while not self._end.is_set():
            asked = self._stack.cli("search", "record number 7", "--kb", KB, "--json")
            found = json.loads(asked.out)["passages"] if asked.status == 0 else []
            answered = self._stack.cli("ask", "What does record number 7 tell of?", "--kb", KB, "--json")
            self.outcomes.append("ok" if found and answered.status == 0 else f"{asked} {answered}")


@pytest.fixture(scope="module")
def stack(served: LiveStack, tmp_path_factory: pytest.TempPathFactory) -> LiveStack:
    """With a knowledge base of a few hundred documents."""
    file = tmp_path_factory.mktemp("reembedded") / "records.jsonl"
    lines = [json.dumps({"_id": f"r{n}", "text": f"Record number {n} tells of owl {n}."}) for n in range(DOCUMENTS)]
    file.write_text("\n".join(lines))
    assert served.cli("ingest", file, "--kb", KB, "--json").json["indexed"] == DOCUMENTS
    return served


@pytest.mark.timeout(240)
def test_nobody_who_asks_notices_a_change_of_model_and_it_can_be_undone(
    stack: LiveStack, standin: StandInProcess
) -> None:
    standin.configure(embedding_latency=1.5)  # it is not over before it is cancelled
    cli = stack.cli.with_environment(CELERIAC_BATCH_DOCUMENTS="4", CELERIAC_WAVES_AT_ONCE="1")
    with Asking(stack) as asking:
        assert wait_until(lambda: len(asking.outcomes) > 0, PATIENCE)
        run_id = cli("kb", "reembed", KB, "--model", NEW, "--dimensions", SIZE, "--detach").out.strip()
        assert wait_until(lambda: 0 < _over(stack, run_id) < DOCUMENTS, PATIENCE)
        os.kill(_worker(stack), signal.SIGKILL)
        assert cli("runs", "cancel", run_id).status == 0
        standin.configure(embedding_latency=0.2)
        assert _shown(stack)["building"]["model"] == NEW
        late = cli("ingest", "-", "--name", "late", "--kb", KB, "--json", stdin=b"Moles dig tunnels.").json
        assert late["indexed"] == 1
        done = cli("runs", "resume", run_id, "--json").json
        asked = len(asking.outcomes)
        assert wait_until(lambda: len(asking.outcomes) > asked + 1, PATIENCE)
    assert (done["status"], done["indexed"], done["failed"]) == ("done", DOCUMENTS, 0)
    assert set(asking.outcomes) == {"ok"}, asking.outcomes

    shown = _shown(stack)
    assert (shown["embedding_model"], shown["dimensions"]) == (NEW, int(SIZE))
    assert (shown["building"], shown["previous"]["model"]) == (None, OLD)
    assert stack.cli("fsck", "--kb", KB, "--json").status == 0
    assert "tunnels" in stack.cli("search", "moles dig", "--kb", KB).out

    back = stack.cli("kb", "restore", KB, "--json").json
    assert (back["status"], back["indexed"], back["embedded"]) == ("done", 0, 0), "nothing has changed since"
    shown = _shown(stack)
    assert (shown["embedding_model"], shown["previous"]["model"]) == (OLD, NEW)
    assert stack.cli("fsck", "--kb", KB, "--json").status == 0
    assert _holding(stack, shown["id"]) == 2
    assert cli("kb", "delete", KB, "--yes", "--json").json["documents"] == DOCUMENTS + 1
    assert _holding(stack, shown["id"]) == 0


@pytest.mark.timeout(240)
def test_a_change_that_can_not_be_made_is_refused_in_one_line_and_one_given_up_is_gone(
    stack: LiveStack, standin: StandInProcess
) -> None:
    cli, name = stack.cli, "given-up"
    assert cli("ingest", "-", "--name", "a", "--kb", name, "--json", stdin=b"Badgers live in setts.").status == 0
    assert "--model" in cli("kb", "reembed", name).error(2)
    standin.configure(faults=[{"kind": "status", "status": 401, "endpoint": "embeddings"}])
    assert "answered 401" in cli("kb", "reembed", name, "--model", NEW, "--dimensions", SIZE).error(1)
    standin.reset()

    # As a cancelled change to this model leaves it.
    stack.sql("UPDATE knowledge_bases SET building_model = 'half', building_dimensions = 8 WHERE name = %s", name)
    assert "half/8" in cli("kb", "show", name).out
    assert "--abandon" in cli("kb", "reembed", name, "--model", NEW, "--dimensions", SIZE).error(2)
    assert cli("kb", "reembed", name, "--abandon", "--json").json["abandoned"]["model"] == "half"
    done = cli("kb", "reembed", name, "--model", NEW, "--dimensions", SIZE)
    assert "1 indexed" in done.out, done
    kb_id = _shown(stack, name)["id"]
    assert _holding(stack, kb_id) == 2
    assert cli("kb", "forget-previous", name, "--json").json["forgotten"]["model"] == OLD
    assert _holding(stack, kb_id) == 1
    assert "no previous" in cli("kb", "restore", name).error(2)


def _holding(stack: LiveStack, kb_id: str) -> int:
    """In how many indexes there are vectors of this knowledge base."""
    tables = stack.sql("SELECT relname FROM pg_class WHERE relname LIKE 'vectors\\_%%' AND relkind = 'r'")
    query = "SELECT kb_id FROM {} WHERE kb_id = %s LIMIT 1"
    return sum(len(stack.sql(query.format(table["relname"]), kb_id)) for table in tables)


def _over(stack: LiveStack, run_id: str) -> int:
    return int(stack.sql("SELECT sum(done) AS n FROM run_batches WHERE run_id = %s", run_id)[0]["n"])


def _worker(stack: LiveStack) -> int:
    return stack.state.processes["ingest-1"].pid


def _shown(stack: LiveStack, name: str = KB) -> Any:
    return stack.cli("kb", "show", name, "--json").json
