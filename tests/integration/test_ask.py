"""Questions through the broker and a real worker."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline import errors
from pipeline.ask import flow
from pipeline.errors import CeleriacError, DeadlineExceeded
from pipeline.types import Answer, AnswerEvent, AskOptions, KnowledgeBase, Question
from pipeline.wiring import Parts
from tests.installation import Pad, eventually, ingest, new_kb, scalars
from tests.installation import answer_of as answered
from tests.standin.fixture import StandInProcess
from tests.workers import WorkerProcess

if TYPE_CHECKING:
    from tasks.client import Client

pytestmark = [
    pytest.mark.usefixtures("worker", "standin"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery's result backend
]

RIVERS = ("Volga", "Loire", "Elbe")
VOLGA = "Where does the river Volga flow?"
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CeleriacError)]


def submit(client: Client, kb: KnowledgeBase, text: str = VOLGA, timeout: float = 20, **options: object) -> Question:
    question = client.question(text, kb=kb.name, options=AskOptions.decode(options), timeout=timeout)
    client.submit(question)
    return question


def failed(client: Client, question: Question) -> CeleriacError:
    with pytest.raises(CeleriacError) as caught:
        answered(client, question)
    return caught.value


def stream(parts: Parts, question: Question) -> list[AnswerEvent]:
    """All events, to the last."""
    found: list[AnswerEvent] = []
    while not found or found[-1].kind not in ("done", "error"):
        more = parts.streams.read(question.id, found[-1].position if found else "0", block=20)
        assert more, f"the stream ended without an end: {found}"
        found += more
    return found


def gist(answer: Answer) -> dict[str, Any]:
    """What must not depend on where it was made: all but ids of the question, times and places."""
    kept = answer.model_dump(mode="json", exclude={"question_id", "timings"})
    return json.loads(json.dumps(kept))


# --------------------------------------------------------------------------- the same as in one process


@pytest.fixture(scope="module")
def xquad(parts: Parts, shared_data: Path) -> KnowledgeBase:
    kb = new_kb(parts)
    ingest(parts, kb, shared_data / "xquad_en" / "corpus.jsonl")
    return kb


def test_the_canvas_answers_as_the_flow_does(
    client: Client, parts: Parts, xquad: KnowledgeBase, shared_data: Path
) -> None:
    """Two spellings of one pipeline, compared on twenty labelled questions, so that they can't drift apart."""
    lines = (shared_data / "xquad_en" / "queries.jsonl").read_text().splitlines()[::60][:20]
    texts = [json.loads(line)["text"] for line in lines]
    assert len(texts) == 20
    sent = [submit(client, xquad, text, timeout=60) for text in texts]
    outcomes = set()
    for question in sent:
        through_broker = answered(client, question)
        here = client.question(question.text, kb=xquad.name, options=question.options)
        parts.questions.submit(here)
        in_process = flow.run(here, parts, Pad())
        assert gist(through_broker) == gist(in_process)
        assert through_broker.citations or through_broker.outcome == "not_in_knowledge_base"
        outcomes.add(through_broker.outcome)
    assert "answered" in outcomes


def test_answers_from_parents_repeat_nothing_and_quote_exactly(
    client: Client, parts: Parts, docs: Path, standin: StandInProcess
) -> None:
    sections = [" ".join(f"The river {name} has {n} bridges and {n} ferries." for n in range(30)) for name in RIVERS]
    text = "".join(f"# {name}\n\n{body}\n\n" for name, body in zip(RIVERS, sections, strict=True))
    (docs / "rivers.md").write_text(text)
    kb = new_kb(parts)
    ingest(parts, kb, docs)
    asked = [submit(client, kb, "How many ferries?", top_k=12, min_score=0.0, parents=wide) for wide in (False, True)]
    narrow, wide = (answered(client, question) for question in asked)
    places = [(passage.start, passage.end) for passage in wide.passages]
    assert len(narrow.passages) == 12
    assert len(places) == len(set(places)) <= len(RIVERS)
    assert all(any(start <= p.start and p.end <= end for start, end in places) for p in narrow.passages)
    assert wide.citations
    assert all(citation.quote == text[citation.start : citation.end] for citation in wide.citations)
    here = client.question(asked[1].text, kb=kb.name, options=asked[1].options)
    parts.questions.submit(here)
    assert gist(flow.run(here, parts, Pad())) == gist(wide)


def test_the_row_holds_what_the_caller_got(
    client: Client, parts: Parts, facts: KnowledgeBase, worker: WorkerProcess
) -> None:
    question = submit(client, facts)
    answer = answered(client, question)
    assert "Caspian Sea" in answer.text
    record = parts.questions.find(question.id)
    assert record.status == "done"
    assert record.answer is not None
    assert gist(record.answer) == gist(answer)
    assert tuple(timing.stage for timing in record.answer.timings) == flow.stages(parts)
    assert {timing.worker for timing in record.answer.timings} == {worker.name}
    assert all(0 <= timing.queue_ms < 20_000 for timing in record.answer.timings)


def test_an_answer_is_there_when_its_result_has_expired(client: Client, parts: Parts, facts: KnowledgeBase) -> None:
    question = submit(client, facts)
    answer = answered(client, question)
    stream(parts, question)  # told after the result is stored; the row is there before
    keys = list(parts.redis.scan_iter(f"{parts.settings.namespace}:celery-task-meta-{question.id}"))
    assert len(keys) == 1
    parts.redis.delete(*keys)
    again = client.result(question.id)
    assert again is not None
    assert gist(again) == gist(answer)


def test_only_the_last_stage_stores_a_result(client: Client, parts: Parts, facts: KnowledgeBase) -> None:
    """Seven results a question would double what Redis has to do."""
    question = submit(client, facts)
    stream(parts, question)  # told after the result is stored
    keys = list(parts.redis.scan_iter(f"{parts.settings.namespace}:celery-task-meta-{question.id}*"))
    assert len(keys) == 1


def test_what_nothing_is_known_about_calls_no_model(
    client: Client, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    answer = answered(client, submit(client, facts, "Who composed Turandot?", min_score=1.0))
    assert (answer.outcome, answer.mode) == ("not_in_knowledge_base", "none")
    assert standin.counters()["calls"] == {}


# --------------------------------------------------------------------------- following


def test_a_follower_hears_every_piece_and_then_finds_the_result(client: Client, facts: KnowledgeBase) -> None:
    question = submit(client, facts)
    events = list(client.follow(question))
    assert events[0].kind == "begin"
    answer = client.result(question.id)
    assert answer is not None, "the end of the stream is told after the result is stored"
    assert "".join(event.value for event in events if event.kind == "text") == answer.text


def test_a_follower_that_comes_late_or_again_misses_nothing(client: Client, facts: KnowledgeBase) -> None:
    question = submit(client, facts)
    answered(client, question)
    first = list(client.follow(question))
    assert list(client.follow(question)) == first
    assert list(client.follow(question, position=first[0].position)) == first[1:]


def test_of_two_deliveries_that_write_at_once_one_is_heard(client: Client, parts: Parts, facts: KnowledgeBase) -> None:
    """After Redis was restarted a question may run twice at the same moment; its reader must not see a mixture."""
    question = client.question("Where does the river Volga flow?", kb=facts.name)
    first = parts.streams.open(question.id, 1)
    first.write("one ")
    second = parts.streams.open(question.id, 1)
    for writer, piece in ((first, "mixed "), (second, "whole "), (first, "up"), (second, "answer")):
        writer.write(piece)
        writer.flush()
    parts.streams.append(question.id, "done")
    heard = [(event.kind, event.value) for event in client.follow(question)]
    assert heard == [("begin", 1), ("text", "one "), ("begin", 1), ("text", "whole "), ("text", "answer")]


@pytest.mark.parametrize("lost", [slice(10, None), slice(4, 8), slice(0, None)], ids=["end", "middle", "all"])
def test_what_was_not_told_of_an_answer_its_reader_hears_at_the_end(
    client: Client, parts: Parts, facts: KnowledgeBase, lost: slice
) -> None:
    """As where another delivery ends first, or Redis lost what it said it had."""
    question = submit(client, facts)
    whole = answered(client, question).text
    again = client.question(question.text, kb=facts.name)
    writer = parts.streams.open(again.id, 1)
    told = whole.replace(whole[lost], "", 1)
    writer.write(told)
    writer.flush()
    parts.streams.append(again.id, "done")
    told_at = again_from_there(client, question, again)
    events = list(told_at("0"))
    begins = max(n for n, event in enumerate(events) if event.kind == "begin")
    assert "".join(event.value for event in events[begins:] if event.kind == "text") == whole
    assert begins == (0 if whole.startswith(told) else 2)


@pytest.mark.parametrize("stream", ["is there", "is gone"])
def test_who_reads_on_hears_what_was_not_told_too(
    client: Client, parts: Parts, facts: KnowledgeBase, stream: str
) -> None:
    question = submit(client, facts)
    whole = answered(client, question).text
    again = client.question(question.text, kb=facts.name)
    writer = parts.streams.open(again.id, 1)
    for piece in (whole[:5], whole[5:10]):
        writer.write(piece)
        writer.flush()
    parts.streams.append(again.id, "done")
    told_at = again_from_there(client, question, again)
    place = next(event.position for event in told_at("0") if event.value == whole[:5])
    if stream == "is gone":
        parts.redis.delete(f"{parts.settings.namespace}:stream:{again.id}")
        time.sleep(0.002)  # what Redis counts is milliseconds: in the same one it would count from 0 again
        parts.streams.append(again.id, "done")
    events = list(told_at(place))
    if stream == "is there":
        assert [event.value for event in events] == [whole[5:10], whole[10:]]
    else:
        assert [(event.kind, event.value) for event in events] == [("begin", 1), ("text", whole)]
        assert list(told_at(events[0].position))[-1].value == whole  # whoever has heard no more than its beginning


def again_from_there(client: Client, answered: Question, again: Question) -> Callable[[str], Iterator[AnswerEvent]]:
    """How to follow a question from a position, as if it had the other one's result."""
    copy = type(client)(client._parts)
    copy.result = lambda _: client.result(answered.id)  # type: ignore[method-assign]
    return lambda position: copy.follow(again, position=position)


def test_a_marker_that_points_nowhere_is_no_reason_to_tell_an_answer_again(
    client: Client, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    standin.configure(answer="The Volga flows into the Caspian Sea [1, 9] [8].")
    question = submit(client, facts)
    events = list(client.follow(question))
    assert answered(client, question).text == "The Volga flows into the Caspian Sea [1]."
    assert [event.kind for event in events].count("begin") == 1
    assert "".join(event.value for event in events if event.kind == "text").endswith("[1, 9] [8].")


def test_who_reads_on_hears_the_delivery_that_was_heard_before(
    client: Client, parts: Parts, facts: KnowledgeBase
) -> None:
    question = client.question("Where does the river Volga flow?", kb=facts.name)
    old, new = (parts.streams.open(question.id, 1) for _ in range(2))
    for writer, piece in ((new, "whole "), (old, "mixed "), (old, "up"), (new, "answer")):
        writer.write(piece)
        writer.flush()
    parts.streams.append(question.id, "done")
    heard = list(client.follow(question))
    (place,) = (event.position for event in heard if event.value == "whole ")
    assert [event.value for event in client.follow(question, position=place)] == ["answer"]


def test_pieces_are_heard_while_the_model_still_writes(
    client: Client, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    standin.configure(stream_seconds=60, chunks=600)
    question = submit(client, facts)
    pieces = (event for event in client.follow(question) if event.kind == "text")
    assert all(next(pieces).value for _ in range(3))
    assert standin.counters()["streams_open"] == 1
    assert client.result(question.id) is None
    assert client.cancel(question.id)
    standin.wait_for(lambda seen: seen["streams_open"] == 0)


# --------------------------------------------------------------------------- failing


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_comes_out_of_the_result_backend_as_it_went_in(kind: type, app: Any) -> None:
    task_id, error = str(uuid.uuid4()), kind("It broke 🧨.", "Mend it.", {"upstream": "openai", "status": 503})
    app.backend.store_result(task_id, error, "FAILURE")
    found = app.backend.get_task_meta(task_id)["result"]
    app.backend.forget(task_id)
    assert type(found) is kind
    assert (found.message, found.hint, found.detail) == (error.message, error.hint, error.detail)


def assert_told_everywhere(parts: Parts, question: Question, error: CeleriacError) -> None:
    last = stream(parts, question)[-1]
    assert (last.kind, last.value["code"]) == ("error", error.code)
    row = parts.questions.find(question.id)
    assert row.status == "failed"
    assert row.error == error.to_json()


def test_a_stage_that_fails_is_told_at_once_and_everywhere(client: Client, parts: Parts) -> None:
    """Steps after a failure are never published and would stay PENDING for ever."""
    question = client.question("What is it?", kb="nowhere")
    client.submit(question)
    error = failed(client, question)
    assert time.time() < question.deadline
    assert type(error) is errors.NotFound
    assert "--kb nowhere" in error.hint
    assert_told_everywhere(parts, question, error)
    assert list(client.follow(question)) == []


def test_a_stage_in_the_middle_that_fails_is_told_as_well(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    standin.configure(faults=[{"kind": "status", "status": 401, "endpoint": "chat"}])
    question = submit(client, facts)
    error = failed(client, question)
    assert time.time() < question.deadline
    assert type(error) is errors.AuthenticationFailed
    assert error.hint
    assert_told_everywhere(parts, question, error)
    assert standin.counters()["calls"] == {"chat 401": 1}, "trying again can't help"


def test_a_knowledge_base_removed_between_two_stages_fails_the_question_or_finds_nothing(
    client: Client, parts: Parts, docs: Path, standin: StandInProcess
) -> None:
    (docs / "a.txt").write_text("The river Volga flows into the Caspian Sea.")
    kb = new_kb(parts)
    ingest(parts, kb, docs)
    standin.configure(held=True)
    question = submit(client, kb)
    standin.wait_for(lambda counters: counters["in_flight"] == 1)
    parts.knowledge_bases.delete(kb.id)
    standin.configure()
    assert answered(client, question).outcome == "answered"  # its passages had been read
    assert type(failed(client, submit(client, kb))) is errors.NotFound


# --------------------------------------------------------------------------- trying again


def test_a_failure_that_can_pass_is_tried_again(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    standin.configure(faults=[{"kind": "status", "status": 503, "endpoint": "chat", "count": 2}])
    question = submit(client, facts)
    answer = answered(client, question)
    assert answer.outcome == "answered"
    assert {timing.stage: timing.attempt for timing in answer.timings if timing.attempt > 1} == {"generate": 3}
    assert [event.value for event in stream(parts, question) if event.kind == "begin"] == [1, 2, 3]
    assert standin.counters()["calls"] == {"chat 503": 2, "chat 200": 1}


def test_a_reader_knows_that_what_a_broken_attempt_wrote_is_void(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    standin.configure(faults=[{"kind": "disconnect", "endpoint": "chat", "count": 1, "after_chunks": 3}])
    question = submit(client, facts)
    answer = answered(client, question)
    events = stream(parts, question)
    begins = [number for number, event in enumerate(events) if event.kind == "begin"]
    assert len(begins) == 2
    written = "".join(event.value for event in events[begins[1] :] if event.kind == "text")
    assert written == answer.text


def test_what_a_service_asks_to_wait_is_waited(client: Client, facts: KnowledgeBase, standin: StandInProcess) -> None:
    standin.configure(faults=[{"kind": "status", "status": 429, "endpoint": "chat", "count": 1, "retry_after": 1}])
    began = time.monotonic()
    answer = answered(client, submit(client, facts))
    assert answer.outcome == "answered"
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    "fault",
    [{"kind": "status", "status": 503}, {"kind": "status", "status": 429, "retry_after": 60}, {"kind": "hang"}],
    ids=["always failing", "asking for more time than there is", "hanging"],
)
def test_no_failure_outlasts_the_deadline(
    fault: dict[str, object], client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    standin.configure(faults=[{**fault, "endpoint": "chat"}])
    question = submit(client, facts, timeout=1.5, strict=True)
    error = failed(client, question)
    assert time.time() < question.deadline + 10  # the model would be waited for 15 s, and 429 asks for 60
    assert isinstance(error, errors.UpstreamError | DeadlineExceeded)
    assert_told_everywhere(parts, question, error)
    assert sum(standin.counters()["calls"].values()) <= parts.settings.max_retries + 1


# --------------------------------------------------------------------------- delivered twice


def test_a_second_delivery_of_a_whole_question_is_answered_once(
    client: Client, parts: Parts, facts: KnowledgeBase
) -> None:
    from tasks import canvases

    question = submit(client, facts)
    answer = answered(client, question)
    canvases.ask(question).apply_async()
    eventually(lambda: sum(event.kind == "done" for event in parts.streams.read(question.id, "0", block=1)) == 2)
    again = client.result(question.id)
    assert again is not None
    assert gist(again) == gist(answer)
    rows = "SELECT ordinal FROM stage_timings WHERE question_id = :id"
    assert len(scalars(parts, rows, id=question.id)) == len(flow.stages(parts))


def test_a_delivery_that_was_overtaken_gives_way_and_fails_nothing(
    client: Client, parts: Parts, facts: KnowledgeBase, standin: StandInProcess
) -> None:
    """Given a question whose message was thought lost and sent again, when the first delivery comes to its end after
    all, then the caller hears nothing of it and gets the answer of the second.
    """
    from tasks import canvases

    standin.configure(held=True)
    question = submit(client, facts)
    standin.wait_for(lambda counters: counters["in_flight"] == 1)
    epoch = parts.questions.resubmit(question.id)
    standin.configure()
    standin.wait_for(lambda counters: counters["calls"].get("chat 200") == 1)
    finished = threading.Event()
    until = time.monotonic() + 1
    while time.monotonic() < until:  # an error would be stored within this time
        assert client.result(question.id) is None
        finished.wait(0.05)
    assert not any(event.kind in ("done", "error") for event in parts.streams.read(question.id, "0", block=0.1))
    assert parts.questions.find(question.id).status == "queued"
    canvases.ask(question.model_copy(update={"epoch": epoch})).apply_async()
    assert answered(client, question).outcome == "answered"


# --------------------------------------------------------------------------- many at once


def test_a_hundred_at_once_are_all_answered(client: Client, parts: Parts, facts: KnowledgeBase) -> None:
    questions = [submit(client, facts, timeout=60) for _ in range(100)]
    texts = {answered(client, question).text for question in questions}
    assert len(texts) == 1
    assert all(stream(parts, question)[-1].kind == "done" for question in questions)
