"""Batches of questions through the broker and a real worker."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from pipeline.ask.question import new_question
from pipeline.batch.identity import Terms, question_id
from pipeline.batch.lines import Line
from pipeline.batch.result import Result
from pipeline.errors import Unreachable
from pipeline.types import KnowledgeBase
from pipeline.wiring import Parts
from tests.installation import eventually, scalars
from tests.standin.fixture import StandInProcess

if TYPE_CHECKING:
    from tasks.batch import Asker

pytestmark = [
    pytest.mark.usefixtures("worker", "standin"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery's result backend
]

VOLGA = "Where does the river Volga flow?"


@pytest.fixture
def batch_id() -> str:
    return str(uuid.uuid4())


def asker(parts: Parts, kb: KnowledgeBase, batch_id: str, *lines: Line, **options: object) -> Asker:
    from tasks.batch import Asker

    terms = Terms(kb=kb.name, timeout=20)
    return Asker(parts, lines, batch_id=batch_id, **{"terms": terms, **options})  # type: ignore[arg-type]


def chat_calls(standin: StandInProcess) -> int:
    return int(standin.counters()["calls"].get("chat 200", 0))


def ask(parts: Parts, kb: KnowledgeBase, batch_id: str, *lines: Line, **options: object) -> list[Result]:
    return list(asker(parts, kb, batch_id, *lines, **options).results())


def test_every_line_has_one_result(parts: Parts, facts: KnowledgeBase, batch_id: str) -> None:
    lines = [Line(n, VOLGA if n % 10 else " ", id=f"q{n}", extra={"n": n}) for n in range(1, 21)]
    results = {result.line: result for result in ask(parts, facts, batch_id, *lines, concurrency=8)}
    assert sorted(results) == list(range(1, 21))
    for number, result in results.items():
        assert (result.id, result.extra) == (f"q{number}", {"n": number})
        if number % 10:
            assert result.answer is not None
            assert "Caspian Sea" in result.answer.text
            assert result.answer.question_id == result.question_id
            assert result.seconds is not None
        else:
            assert result.error is not None
            assert (result.error["code"], result.question_id) == ("BadQuestion", "")


def test_its_calls_are_in_the_lane_of_bulk_work(parts: Parts, facts: KnowledgeBase, batch_id: str) -> None:
    def counted() -> int:
        return sum(report.bulk_requests for report in parts.upstreams.report() if report.kind == "chat")

    ask(parts, facts, batch_id, *(Line(n, VOLGA) for n in range(1, 4)))
    # A worker tells now and then, and of the minute under way: one more may be needed that it tells of.
    eventually(lambda: counted() > 0 or not ask(parts, facts, str(uuid.uuid4()), Line(1, VOLGA)))


def test_no_more_than_so_many_are_under_way(
    parts: Parts, facts: KnowledgeBase, batch_id: str, standin: StandInProcess
) -> None:
    standin.configure(first_token=0.1)
    lines = [Line(n, VOLGA) for n in range(1, 13)]
    taken: list[int] = []

    def given() -> Iterator[Line]:
        for line in lines:
            taken.append(line.number)
            yield line

    under_way = asker(parts, facts, batch_id, concurrency=3)
    under_way._lines = given()
    over = 0
    for came in under_way.turns():
        over += len(came)
        assert len(taken) <= over + 3 + 1
    assert over == 12
    assert standin.counters()["max_in_flight"] <= 3


class TestSecondProcess:
    """The same batch again, after the first process is gone."""

    def test_what_was_answered_is_fetched(
        self, parts: Parts, facts: KnowledgeBase, batch_id: str, standin: StandInProcess
    ) -> None:
        (first,) = ask(parts, facts, batch_id, Line(1, VOLGA))
        parts.redis.delete(f"{parts.settings.namespace}:celery-task-meta-{first.question_id}")
        (second,) = ask(parts, facts, batch_id, Line(1, VOLGA))
        assert second.question_id == first.question_id
        assert second.answer is not None
        assert first.answer is not None
        assert second.answer.text == first.answer.text
        assert chat_calls(standin) == 1

    def test_what_is_under_way_is_waited_for(
        self, parts: Parts, facts: KnowledgeBase, batch_id: str, standin: StandInProcess
    ) -> None:
        standin.configure(held=True)
        first = asker(parts, facts, batch_id, Line(1, VOLGA))
        for came in first.turns():
            assert not came
            first.stop()
        assert first.under_way == 1
        standin.wait_for(lambda seen: seen["streams_open"] == 1)
        release = threading.Timer(0.5, standin.configure)
        release.start()
        (second,) = ask(parts, facts, batch_id, Line(1, VOLGA))
        release.join()
        assert second.answer is not None
        assert chat_calls(standin) == 1

    def test_what_failed_tells_what_it_cost(
        self, parts: Parts, facts: KnowledgeBase, batch_id: str, standin: StandInProcess
    ) -> None:
        standin.configure(finish_reason="content_filter")
        (result,) = ask(parts, facts, batch_id, Line(1, VOLGA))
        assert result.error is not None
        assert result.error["code"] == "RequestRejected"
        assert result.usage is not None
        seen = standin.counters()
        assert (result.usage.input_tokens, result.usage.output_tokens) == (seen["input_tokens"], seen["output_tokens"])
        assert result.usage.tokens > 0
        assert result.usage.estimated_tokens == 0

    def test_what_failed_is_asked_anew_under_the_next_id(
        self, parts: Parts, facts: KnowledgeBase, batch_id: str, standin: StandInProcess
    ) -> None:
        standin.configure(faults=[{"kind": "status", "status": 401, "endpoint": "chat", "count": 1}])
        ids = []
        for status in ("failed", "done", "done"):
            (result,) = ask(parts, facts, batch_id, Line(1, VOLGA))
            assert result.status == status
            ids.append(result.question_id)
        assert ids[0] != ids[1] == ids[2]
        assert chat_calls(standin) == 1

    def test_what_is_past_its_time_is_asked_anew_even_if_no_sweep_said_so(
        self, parts: Parts, facts: KnowledgeBase, batch_id: str
    ) -> None:
        from tasks.client import GRACE

        key = Terms(kb=facts.name).key_of(Line(1, VOLGA))
        long_ago = time.time() - GRACE - 5
        lost = new_question(VOLGA, parts.settings, kb=facts.name).model_copy(
            update={"id": question_id(batch_id, key, 1), "submitted_at": long_ago - 1, "deadline": long_ago}
        )
        parts.questions.submit(lost)
        (result,) = ask(parts, facts, batch_id, Line(1, VOLGA), terms=Terms(kb=facts.name))
        assert result.answer is not None
        assert result.question_id == question_id(batch_id, key, 2)
        rows = "SELECT status FROM questions WHERE id = CAST(:id AS uuid)"
        assert scalars(parts, rows, id=lost.id) == ["queued"]
        parts.questions.fail(lost.id, Unreachable("Gone."), epoch=0)


def test_an_answer_that_redis_has_lost_is_found_in_its_row(
    parts: Parts, facts: KnowledgeBase, batch_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import batch

    monkeypatch.setattr(batch, "_ROWS_EVERY", 0.2)
    under_way = asker(parts, facts, batch_id, Line(1, VOLGA))
    under_way._ask_until(time.monotonic() + 5)
    (question_id,) = under_way._under_way
    eventually(lambda: parts.questions.over([question_id]))
    eventually(lambda: parts.redis.delete(f"{parts.settings.namespace}:celery-task-meta-{question_id}"))
    (result,) = under_way.results()
    assert result.answer is not None


def test_as_long_as_may_ask_says_no_nothing_is_asked(parts: Parts, facts: KnowledgeBase, batch_id: str) -> None:
    came: list[Result] = []
    limited = asker(parts, facts, batch_id, *[Line(n, VOLGA) for n in range(1, 9)], may_ask=lambda n: len(came) + n < 3)
    for turn in limited.turns():
        came += turn
    assert len(came) == 3
    assert not limited.is_complete


def test_an_outage_is_borne_for_a_while_only(parts: Parts, facts: KnowledgeBase, batch_id: str) -> None:
    url = SecretStr("postgresql://celeriac:x@127.0.0.1:1/x")
    gone = Parts(parts.settings.model_copy(update={"database_url": url}))
    begun = time.monotonic()
    with pytest.raises(Unreachable, match="Postgres can't be reached"):
        ask(gone, facts, batch_id, Line(1, VOLGA), patience=1.0)
    assert 1.0 <= time.monotonic() - begun < 8
