"""A worker that knows how long its model is silent, and one that hangs for once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.silence import ENOUGH
from pipeline.types import AskOptions, KnowledgeBase, Question
from tests.installation import answer_of
from tests.standin.fixture import StandInProcess
from tests.workers import WorkerProcess

if TYPE_CHECKING:
    from tasks.client import Client

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's result backend
answered = partial(answer_of, within=30.0)


@pytest.fixture(scope="module")
def impatient(
    app: Any, worker: WorkerProcess, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    """A worker that gives up early, and answers alone until it is gone."""
    with app.connection_for_write() as connection:  # another test may have broken those that are kept
        app.control.cancel_consumer("ask", destination=[worker.name], reply=True, connection=connection)
    log: Path = tmp_path_factory.mktemp("impatient") / "log"
    found = WorkerProcess({**environment, "CELERIAC_SILENCE_LEAST": "1"}, log, name="impatient", queues="ask")
    try:
        found.wait_until_ready()
        yield found
    finally:
        found.stop()
        with app.connection_for_write() as connection:
            app.control.add_consumer("ask", destination=[worker.name], reply=True, connection=connection)


@pytest.fixture
def practised(
    impatient: WorkerProcess, client: Client, facts: KnowledgeBase, standin: StandInProcess
) -> StandInProcess:
    """The stand-in, to which that worker has talked often enough."""
    for _ in range(2 * ENOUGH):  # one of them may have been given up, too
        answered(client, submit(client, facts))
    standin.reset()
    return standin


def submit(client: Client, kb: KnowledgeBase, **options: object) -> Question:
    asked = AskOptions.decode(options)
    question = client.question("Where does the river Volga flow?", kb=kb.name, options=asked, timeout=60)
    client.submit(question)
    return question


@pytest.mark.parametrize("after_chunks", [0, 3], ids=["before its first word", "in mid-answer"])
def test_a_model_that_hangs_for_once_is_asked_again_soon(
    practised: StandInProcess, client: Client, facts: KnowledgeBase, after_chunks: int
) -> None:
    """Long before the limit of 15 s."""
    practised.configure(faults=[{"kind": "hang", "endpoint": "chat", "count": 1, "after_chunks": after_chunks}])
    began = time.monotonic()
    answer = answered(client, submit(client, facts))
    assert time.monotonic() - began < 14
    assert (answer.mode, answer.degraded) == ("generated", ())
    first, second = [timing for timing in answer.timings if timing.stage == "generate"]
    assert "s, longer than it does otherwise" in first.error
    assert (second.attempt, second.error) == (2, "")
    assert 0 < answer.usage.estimated_tokens < answer.usage.input_tokens, "the first attempt is paid for, too"


def test_where_nobody_waits_it_is_waited_for(practised: StandInProcess, client: Client, facts: KnowledgeBase) -> None:
    practised.configure(first_token=3.0)
    answer = answered(client, submit(client, facts, bulk=True))
    assert [timing.error for timing in answer.timings if timing.stage == "generate"] == [""]
    assert practised.counters()["calls"] == {"chat 200": 1}
