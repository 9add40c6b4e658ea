"""What questions leave behind in a worker that lives for weeks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import Cancelled
from pipeline.types import KnowledgeBase, Question
from tests.installation import eventually
from tests.standin.fixture import StandInProcess
from tests.workers import WorkerProcess

if TYPE_CHECKING:
    from tasks.client import Client

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
QUESTIONS = 12
OF_A_SLOT = ("Greenlet", "Context", "HandingRequest", "Message", "frame", "traceback", "AskState", "Retry", "Ignore")


@pytest.fixture(scope="module")
def garbage(
    app: Any, worker: WorkerProcess, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], dict[str, int]]]:
    """A worker that answers alone, and what lies about in it; looking removes it."""
    app.control.cancel_consumer("ask", destination=[worker.name], reply=True)
    tidy = WorkerProcess(
        environment,
        tmp_path_factory.mktemp("tidy") / "log",
        name=f"tidy-{os.getpid()}",
        queues="ask",
        options=["--include", "tests.garbage"],
    )

    def look() -> dict[str, int]:
        sent = app.send_task("tests.garbage", queue="ask")
        found = eventually(lambda: app.backend.get_task_meta(sent.id)["result"], within=30)
        return {name: found[name] for name in OF_A_SLOT if name in found}

    try:
        tidy.wait_until_ready()
        yield look
    finally:
        tidy.stop()
        app.control.add_consumer("ask", destination=[worker.name], reply=True)


def submitted(client: Client, kb: KnowledgeBase) -> list[Question]:
    asked = [client.question("Where does the river Volga flow?", kb=kb.name, timeout=40) for _ in range(QUESTIONS)]
    for question in asked:
        client.submit(question)
    return asked


def ended(client: Client, asked: list[Question]) -> None:
    for question in asked:
        assert eventually(lambda question=question: client.result(question.id), within=30)


def test_an_answered_question_leaves_nothing_for_the_garbage_collector(
    client: Client, facts: KnowledgeBase, standin: StandInProcess, garbage: Callable[[], dict[str, int]]
) -> None:
    ended(client, submitted(client, facts))
    garbage()
    ended(client, submitted(client, facts))
    left = garbage()
    assert max(left.values(), default=0) < QUESTIONS, left


def test_nor_does_one_that_is_tried_again_or_cancelled(
    client: Client, facts: KnowledgeBase, standin: StandInProcess, garbage: Callable[[], dict[str, int]]
) -> None:
    ended(client, submitted(client, facts))
    garbage()
    standin.configure(faults=[{"kind": "status", "status": 500, "endpoint": "chat", "count": QUESTIONS // 2}])
    ended(client, submitted(client, facts))
    standin.configure(first_token=30.0)
    asked = submitted(client, facts)
    standin.wait_for(lambda seen: seen["streams_open"] == QUESTIONS)
    for question in asked:
        client.cancel(question.id)
        with pytest.raises(Cancelled):
            client.result(question.id)
    standin.wait_for(lambda seen: seen["streams_open"] == 0)
    left = garbage()
    assert max(left.values(), default=0) < QUESTIONS, left
