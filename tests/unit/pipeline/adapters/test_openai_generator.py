from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pipeline import errors, losses
from pipeline.adapters import openai_generator
from pipeline.adapters.http_deadline import Deadline
from pipeline.adapters.http_faults import Call
from pipeline.adapters.openai_client import make_client
from pipeline.adapters.openai_generator import OpenAIGenerator
from pipeline.cancelling import Abort
from pipeline.prices import cost
from pipeline.seams import GenerationRequest
from pipeline.silence import ENOUGH, Silences, hurrying
from pipeline.types import Usage
from tests.standin.fixture import StandInProcess
from tests.standin.scripted import Script, Scripted

PROMPT = "[1] Cats sleep all day long.\n[2] At night dogs bark. Nobody knows why.\n\nQuestion: when do dogs bark?"


Make = Callable[..., OpenAIGenerator]


@pytest.fixture
def generator(standin: StandInProcess) -> Iterator[Make]:
    """Makes generators that ask the stand-in."""
    client = make_client("key", standin.url, 5.0)
    yield lambda **options: OpenAIGenerator(client, "gpt-5-mini", **options)
    client.close()


@pytest.fixture
def generator_of(request: pytest.FixtureRequest) -> Callable[[Scripted], OpenAIGenerator]:
    """Makes generators that ask other services."""

    def make(service: Scripted, **options: Any) -> OpenAIGenerator:
        client = make_client("key", f"{service.host}/v1", 5.0)
        request.addfinalizer(client.close)
        return OpenAIGenerator(client, "gpt-5-mini", **options)

    return make


def request(**options: Any) -> GenerationRequest:
    return GenerationRequest(question="when?", passages=(), messages=(("user", PROMPT),), **options)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(event: Any) -> bytes:
    """An event as a chunk of HTTP."""
    line = b"data: %s\n\n" % (event if isinstance(event, bytes) else json.dumps(event).encode())
    return b"%x\r\n%s\r\n" % (len(line), line)


def said(text: str, **choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, **choice}]}


def answered(*events: Any) -> Script:
    """A reply of these events, and its end."""
    return [(0.0, HEAD + b"".join(map(chunk, events)) + chunk(b"[DONE]") + END)]


def answer(generator: Make, timeout: float = 5.0) -> str:
    return "".join(delta.text for delta in generator().stream(request(), timeout=timeout))


def test_the_answer_comes_in_pieces_and_cites_its_passage(standin: StandInProcess, generator: Make) -> None:
    standin.configure(stream_seconds=0.8)

    pieces = [delta.text for delta in generator().stream(request(), timeout=5) if delta.text]

    assert pieces == ["At", " night", " dogs", " bark.", " [2]"]


def test_the_last_piece_alone_carries_tokens_and_cost(standin: StandInProcess, generator: Make) -> None:
    *before, last = generator().stream(request(), timeout=5)

    assert all(delta.usage is None for delta in before)
    assert last.usage is not None
    assert (last.usage.model, last.usage.output_tokens) == ("gpt-5-mini", 5)
    assert last.usage.input_tokens == standin.counters()["input_tokens"]
    assert last.usage.cost_usd == cost("gpt-5-mini", last.usage.input_tokens, 5, {})


def test_a_price_from_the_settings_wins(standin: StandInProcess, generator: Make) -> None:
    *_, last = generator(prices={"gpt-5-mini": (0.0, 1_000_000.0)}).stream(request(), timeout=5)

    assert last.usage is not None
    assert last.usage.cost_usd == 5.0


def test_settings_that_nobody_set_are_not_sent(standin: StandInProcess, generator: Make) -> None:
    """Most models refuse a reasoning effort they don't know."""
    list(generator().stream(request(), timeout=5))

    sent = standin.counters()["last_request"]
    assert sent == {"model": "gpt-5-mini", "stream": True, "stream_options": {"include_usage": True}}


def test_what_the_question_asks_for_wins_over_the_settings(standin: StandInProcess, generator: Make) -> None:
    ours = generator(reasoning_effort="low", verbosity="low")

    list(ours.stream(request(model="gpt-5", verbosity="high"), timeout=5))

    sent = standin.counters()["last_request"]
    assert (sent["model"], sent["reasoning_effort"], sent["verbosity"]) == ("gpt-5", "low", "high")


def test_closing_the_stream_closes_the_connection_at_once(standin: StandInProcess, generator: Make) -> None:
    """A question that was cancelled must not go on costing tokens."""
    standin.configure(chunks=1000, stream_seconds=60)
    stream = generator().stream(request(), timeout=60)
    next(stream)
    closed = time.time()

    stream.close()

    seen = standin.wait_for(lambda counters: not counters["streams_open"])
    (early,) = seen["closed_early"]
    assert early["at"] - closed < 15  # of 60
    assert early["chunks"] < 1000


@pytest.mark.parametrize(
    "behaviour",
    [
        {"chunks": 1000, "stream_seconds": 60},
        {"first_token": 60},
        {"first_token": 60, "late_headers": True},
        {"faults": [{"kind": "hang", "after_chunks": 3}]},
    ],
    ids=["in mid-answer", "before the first token", "before the reply", "while it hangs"],
)
@pytest.mark.parametrize("kept", [False, True], ids=["new connection", "kept connection"])
def test_an_abort_from_another_thread_closes_the_connection_at_once(
    standin: StandInProcess, generator: Make, behaviour: dict[str, Any], kept: bool
) -> None:
    abort, ours = Abort(), generator()
    if kept:
        list(ours.stream(request(), timeout=5))
    standin.configure(**behaviour)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: list(ours.stream(request(), timeout=60, abort=abort)))
        standin.wait_for(lambda counters: counters["streams_open"] == 1)
        aborted = time.time()
        abort.trigger()
        with pytest.raises(errors.Cancelled):
            reading.result(timeout=20)
    seen = standin.wait_for(lambda counters: not counters["streams_open"])
    assert seen["closed_early"][0]["at"] - aborted < 15  # of 60
    assert seen["connections"] == 1
    standin.reset()
    assert list(ours.stream(request(), timeout=5))


def test_an_abort_before_the_call_sends_nothing(standin: StandInProcess, generator: Make) -> None:
    abort = Abort()
    abort.trigger()

    with pytest.raises(errors.Cancelled):
        list(generator().stream(request(), timeout=5, abort=abort))

    assert standin.counters()["calls"] == {}


def test_an_abort_after_the_answer_leaves_its_connection_to_the_next_one(
    standin: StandInProcess, generator: Make
) -> None:
    """The connection may serve somebody else's answer by then."""
    standin.configure(chunks=5, stream_seconds=0.3)
    ours, first = generator(), Abort()
    list(ours.stream(request(), timeout=5, abort=first))
    other = ours.stream(request(), timeout=5, abort=Abort())
    next(other)

    first.trigger()

    assert list(other)
    assert standin.counters()["connections"] == 1
    assert standin.counters()["closed_early"] == []


def test_an_abort_while_tls_is_negotiated_ends_the_call_when_the_time_to_connect_is_over(generator: Make) -> None:
    """Nothing was asked yet, so nothing is paid for meanwhile."""
    abort = Abort()
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        make_client("key", f"https://127.0.0.1:{silent.getsockname()[1]}/v1", 1.0) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        reading = pool.submit(lambda: list(OpenAIGenerator(client, "m").stream(request(), timeout=30, abort=abort)))
        accepted, _ = silent.accept()
        abort.trigger()
        with accepted, pytest.raises(errors.Cancelled):
            reading.result(timeout=20)


def test_one_connection_serves_answer_after_answer(standin: StandInProcess, generator: Make) -> None:
    ours = generator()

    for _ in range(5):
        list(ours.stream(request(), timeout=5))

    assert standin.counters()["connections"] == 1


@pytest.mark.parametrize(
    "behaviour",
    [
        {"chunks": 1000, "stream_seconds": 60},
        {"first_token": 60},
        {"faults": [{"kind": "hang", "after_chunks": 3}]},
        {"faults": [{"kind": "hang"}], "first_token": 0.3},
    ],
    ids=["a long answer", "no first token", "silence in mid-answer", "silence near the end"],
)
def test_the_timeout_bounds_the_whole_answer(
    standin: StandInProcess, generator: Make, behaviour: dict[str, Any]
) -> None:
    standin.configure(**behaviour)
    started = time.monotonic()

    with pytest.raises(errors.TimedOut):
        answer(generator, timeout=0.5)

    assert 0.4 < time.monotonic() - started < 15
    standin.wait_for(lambda counters: not counters["streams_open"])


def test_the_timeout_bounds_a_reply_whose_headers_never_end(
    hanging_headers: Scripted, generator_of: Callable[..., OpenAIGenerator]
) -> None:
    started = time.monotonic()

    with pytest.raises(errors.TimedOut):
        list(generator_of(hanging_headers, silences=Silences(15)).stream(request(), timeout=0.5))

    assert 0.4 < time.monotonic() - started < 12


@pytest.fixture
def long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are let come together for five seconds."""
    for name in ("_GATHER_EACH", "_GATHER_AT_MOST"):
        monkeypatch.setattr(openai_generator, name, 5.0)


@pytest.mark.usefixtures("long_pause")
@pytest.mark.parametrize(
    "before",
    [
        [chunk({"choices": [{"delta": {"role": "assistant", "content": ""}}]})],
        [b"e\r\n: keep-alive\n\n\r\n"],
        [chunk({"choices": [], "prompt_filter_results": []})],
        [chunk({"choices": [{"delta": {"reasoning_content": "Hm."}}]})] * 3,
    ],
    ids=["a role", "a comment", "a filter", "reasoning"],
)
def test_the_first_text_is_told_at_once_whatever_comes_before_it(
    scripted: Callable[[Script], Scripted], generator_of: Callable[..., OpenAIGenerator], before: list[bytes]
) -> None:
    script = [(0.0, HEAD), *((0.03, piece) for piece in before), (0.03, chunk(said("Hello"))), (60.0, END)]
    stream = generator_of(scripted(script)).stream(request(), timeout=30)
    started = time.monotonic()

    assert next(stream).text == "Hello"

    assert time.monotonic() - started < 4.5


def test_what_has_come_is_told_at_once_and_so_is_that_the_model_pauses(
    scripted: Callable[[Script], Scripted],
    generator_of: Callable[..., OpenAIGenerator],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Piece by piece all but the first would wait for what the model says next."""
    for name in ("_GATHER_EACH", "_GATHER_AT_MOST"):
        monkeypatch.setattr(openai_generator, name, 1.5)
    script = [
        (0.0, HEAD + chunk(said("One"))),
        *((0.05, chunk(said(text))) for text in (" two", " three")),
        (0.05, chunk(said(" four")) + chunk(said(" five"))),
        (6.0, chunk(said(" end.", finish_reason="stop")) + chunk(b"[DONE]") + END),
    ]
    stream = generator_of(scripted(script)).stream(request(), timeout=30)
    started = time.monotonic()

    told = [(delta.text, time.monotonic() - started) for delta in stream]

    soon = [text for text, seconds in told if seconds < 5.5]
    assert soon == ["One", " two three four five", ""]
    assert [text for text, _ in told][len(soon) :] == [" end.", ""]


def test_pauses_grow_with_the_answers_that_are_open(generator: Make) -> None:
    ours, begun = generator(), openai_generator._Answer(Call("openai"))
    begun.read(chunk(said("Hello")))

    def pause(answers: int) -> float:
        ours._open = {Deadline(begun.call, 9) for _ in range(answers)}
        return ours._pause(begun)

    assert [pause(answers) for answers in (1, 10, 20, 50, 100)] == [0.025, 0.03, 0.06, 0.1, 0.1]


@pytest.mark.parametrize(
    ("end", "connections"),
    [([], 2), ([(0.1, END)], 1), ([(0.1, b"no chunk")], 2)],
    ids=["never", "a moment later", "broken"],
)
def test_an_answer_is_complete_with_its_last_event_however_the_reply_ends(
    scripted: Callable[[Script], Scripted], generator_of: Callable[..., OpenAIGenerator], end: Script, connections: int
) -> None:
    (_, whole), *_ = answered(said("Hello.", finish_reason="stop"))
    service = scripted([(0.0, whole.removesuffix(END)), *end])
    ours = generator_of(service, silences=Silences(5))
    started = time.monotonic()

    for _ in range(2):
        assert "".join(delta.text for delta in ours.stream(request(), timeout=10)) == "Hello."

    assert time.monotonic() - started < 3
    assert service.connections == connections


def test_a_last_event_without_an_end_of_its_line_counts(
    scripted: Callable[[Script], Scripted], generator_of: Callable[..., OpenAIGenerator]
) -> None:
    (_, whole), *_ = answered(said("Hello"))
    head, _, _ = whole.partition(chunk(b"[DONE]"))
    last = b"data: " + json.dumps(said(" you.", finish_reason="stop")).encode()
    service = scripted([(0.0, head + b"%x\r\n%s\r\n" % (len(last), last) + END)])

    assert "".join(delta.text for delta in generator_of(service).stream(request(), timeout=5)) == "Hello you."


@pytest.mark.parametrize("after_chunks", [0, 3])
def test_a_model_that_falls_silent_is_given_up_long_before_its_time_is_over(
    standin: StandInProcess, generator: Make, after_chunks: int
) -> None:
    standin.configure(faults=[{"kind": "hang", "after_chunks": after_chunks}])
    started = time.monotonic()
    with pytest.raises(errors.TimedOut):
        list(generator(silences=Silences(0.3)).stream(request(), timeout=20))
    assert time.monotonic() - started < 5
    standin.wait_for(lambda counters: not counters["streams_open"])


@pytest.mark.parametrize("after_chunks", [0, 3])
def test_a_first_attempt_is_given_up_when_the_model_is_silent_for_longer_than_it_has_been(
    standin: StandInProcess, generator: Make, after_chunks: int
) -> None:
    ours = generator(silences=Silences(15, 0.3))
    for _ in range(ENOUGH):
        list(ours.stream(request(), timeout=20))
    standin.configure(faults=[{"kind": "hang", "after_chunks": after_chunks}])
    started = time.monotonic()

    with (
        hurrying(20),
        pytest.raises(errors.TimedOut, match=r"said nothing for .* s, longer than it does otherwise") as caught,
    ):
        list(ours.stream(request(), timeout=20))

    assert time.monotonic() - started < 5
    assert caught.value.detail["early"]
    standin.wait_for(lambda counters: not counters["streams_open"])


def test_the_next_attempt_has_the_whole_limit(standin: StandInProcess, generator: Make) -> None:
    ours = generator(silences=Silences(15, 0.3))
    for _ in range(ENOUGH):
        list(ours.stream(request(), timeout=20))
    standin.configure(first_token=1.5)
    with hurrying(20), pytest.raises(errors.TimedOut):
        list(ours.stream(request(), timeout=20))

    assert list(ours.stream(request(), timeout=20))


def test_the_end_of_its_time_is_no_early_end(standin: StandInProcess, generator: Make) -> None:
    ours = generator(silences=Silences(15, 2.0))
    for _ in range(ENOUGH):
        list(ours.stream(request(), timeout=20))
    standin.configure(faults=[{"kind": "hang"}])

    with hurrying(20), pytest.raises(errors.TimedOut, match=r"no complete answer in 0\.5 s") as caught:
        list(ours.stream(request(), timeout=0.5))

    assert "early" not in caught.value.detail


def test_a_model_that_writes_slowly_is_not_silent(standin: StandInProcess, generator: Make) -> None:
    """The whole takes longer than it may be silent for, and no pause does."""
    standin.configure(first_token=0.3, stream_seconds=4.5, chunks=16)
    assert list(generator(silences=Silences(3.0)).stream(request(), timeout=30))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"kind": "no_finish"}, "ended before"),
        ({"kind": "disconnect", "after_chunks": 3}, "broken reply"),
        ({"kind": "malformed"}, "not JSON"),
        ({"kind": "error_event", "after_chunks": 2, "message": "overloaded"}, "overloaded"),
        ({"kind": "status", "status": 500}, "500"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_an_answer_that_breaks_off_is_an_error_that_can_be_tried_again(
    standin: StandInProcess, generator: Make, fault: dict[str, Any], words: str
) -> None:
    standin.configure(faults=[fault])

    with pytest.raises(errors.ServerFault, match=words) as caught:
        answer(generator)

    assert caught.value.retryable


def test_an_error_in_the_stream_keeps_its_meaning(standin: StandInProcess, generator: Make) -> None:
    standin.configure(faults=[{"kind": "error_event", "code": "rate_limit_exceeded"}])

    with pytest.raises(errors.RateLimited):
        answer(generator)


@pytest.mark.parametrize(
    "event",
    [
        "words",
        [1],
        {"choices": [None]},
        {"choices": 1},
        {"choices": [{"delta": {"content": [{"type": "text", "text": "Hello"}]}}]},
        {"choices": [{"delta": "Hello"}]},
        {"choices": [], "usage": "none"},
        {"choices": [], "usage": {"prompt_tokens": "n/a"}},
        {"choices": [], "usage": {"prompt_tokens": float("inf")}},
    ],
    ids=json.dumps,
)
def test_an_event_of_another_form_is_an_error_that_can_be_tried_again(
    scripted: Callable[[Script], Scripted], generator_of: Callable[..., OpenAIGenerator], event: Any
) -> None:
    service = scripted(answered(event))

    with pytest.raises(errors.ServerFault, match="form"):
        list(generator_of(service).stream(request(), timeout=5))


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_answer_is_an_error(standin: StandInProcess, generator: Make, text: str) -> None:
    standin.configure(answer=text)

    with pytest.raises(errors.ServerFault, match="empty"):
        answer(generator)


@pytest.mark.parametrize(("reason", "cut_off"), [("length", True), ("stop", False)])
def test_an_answer_at_the_length_limit_is_given_as_far_as_it_goes_and_says_so(
    standin: StandInProcess, generator: Make, reason: str, cut_off: bool
) -> None:
    standin.configure(finish_reason=reason)

    *pieces, last = generator().stream(request(), timeout=5)

    assert "".join(delta.text for delta in pieces) == "At night dogs bark. [2]"
    assert last.cut_off is cut_off
    assert not any(delta.cut_off for delta in pieces)


def test_an_answer_that_a_content_filter_stopped_is_refused_for_good(standin: StandInProcess, generator: Make) -> None:
    standin.configure(finish_reason="content_filter")

    with pytest.raises(errors.RequestRejected, match="content filter"):
        answer(generator)


PROMPT_TOKENS = -(-len(PROMPT.encode()) // losses.BYTES_PER_TOKEN)


def lost(generator: OpenAIGenerator, timeout: float = 5.0) -> Usage:
    """What an answer cost that came to no end."""
    with losses.counted() as found, pytest.raises(errors.CeleriacError):
        list(generator.stream(request(), timeout=timeout))
    return found.usage


@pytest.mark.parametrize(
    ("behaviour", "written"),
    [
        ({"first_token": 50}, 0),
        ({"first_token": 50, "late_headers": True}, 0),
        ({"faults": [{"kind": "hang", "after_chunks": 3}]}, len("At night dogs")),
    ],
    ids=["no first token", "no reply", "silence in mid-answer"],
)
def test_a_call_that_was_given_up_cost_its_prompt_and_what_had_come(
    standin: StandInProcess, generator: Make, behaviour: dict[str, Any], written: int
) -> None:
    standin.configure(**behaviour)
    given, out = PROMPT_TOKENS, -(-written // losses.BYTES_PER_TOKEN)
    known = Usage(
        model="gpt-5-mini",
        input_tokens=given,
        output_tokens=out,
        estimated_tokens=given + out,
        cost_usd=cost("gpt-5-mini", given, out, {}),
    )
    assert lost(generator(), timeout=3.0) == known
    assert lost(generator(silences=Silences(3.0)), timeout=20) == known, "silent for too long"


def test_so_did_one_that_the_service_broke_off(standin: StandInProcess, generator: Make) -> None:
    for fault, tokens in (
        ({"kind": "disconnect", "after_chunks": 3}, 4),
        ({"kind": "error_event", "after_chunks": 2}, 2),
    ):
        standin.configure(faults=[fault])
        found = lost(generator())
        assert (found.input_tokens, found.output_tokens) == (PROMPT_TOKENS, tokens), fault


def test_so_did_one_that_was_cancelled(standin: StandInProcess, generator: Make) -> None:
    standin.configure(chunks=200, stream_seconds=20)
    abort = Abort()
    with losses.counted() as found:
        pieces = generator().stream(request(), timeout=20, abort=abort)
        while not next(pieces).text:
            pass
        abort.trigger()
        with pytest.raises(errors.Cancelled):
            list(pieces)
    assert found.usage.input_tokens == PROMPT_TOKENS
    assert found.usage.output_tokens > 0


def test_so_did_one_whose_reader_went_away(standin: StandInProcess, generator: Make) -> None:
    standin.configure(chunks=200, stream_seconds=20)
    with losses.counted() as found:
        pieces = generator().stream(request(), timeout=20)
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]
    assert found.usage.input_tokens == PROMPT_TOKENS


def test_where_the_service_has_said_what_it_cost_that_counts(standin: StandInProcess, generator: Make) -> None:
    standin.configure(finish_reason="content_filter")
    found = lost(generator())
    assert found.input_tokens == standin.counters()["input_tokens"]
    assert (found.output_tokens, found.estimated_tokens) == (5, 0)


WHOLE = answered(said("Hello.", finish_reason="stop"), {"usage": {"prompt_tokens": 77, "completion_tokens": 3}})


@pytest.mark.parametrize("ended", ["cancelled", "late"])
def test_a_whole_answer_that_nobody_waits_for_any_more_cost_what_the_service_says(
    scripted: Callable[[Script], Scripted], generator_of: Callable[..., OpenAIGenerator], ended: str
) -> None:
    """As where it is written to a Redis that takes its time."""
    abort, over = Abort(), {"cancelled": errors.Cancelled, "late": errors.TimedOut}[ended]
    with losses.counted() as found:
        pieces = generator_of(scripted(WHOLE)).stream(request(), timeout=3.0, abort=abort)
        assert next(pieces).text == "Hello."
        if ended == "late":
            time.sleep(3.1)
        else:
            abort.trigger()
        with pytest.raises(over):
            list(pieces)
    assert (found.usage.input_tokens, found.usage.output_tokens, found.usage.estimated_tokens) == (77, 3, 0)


def test_what_a_service_says_before_its_answer_has_ended_is_not_the_whole(
    scripted: Callable[[Script], Scripted], generator_of: Callable[..., OpenAIGenerator]
) -> None:
    """Some tell with every event how many tokens it is by now."""
    running = said("Eight letters") | {"usage": {"prompt_tokens": 77, "completion_tokens": 0}}
    found = lost(generator_of(scripted(answered(running))))
    assert found.output_tokens == 4


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
def test_a_refusal_is_free(standin: StandInProcess, generator: Make, status: int) -> None:
    standin.configure(faults=[{"kind": "status", "status": status}])
    assert lost(generator()).tokens == 0


@pytest.mark.parametrize("abandoned", [False, True], ids=["", "cancelled meanwhile"])
def test_also_one_whose_words_never_end(
    hanging_refusal: Scripted, generator_of: Callable[..., OpenAIGenerator], abandoned: bool
) -> None:
    abort = Abort()
    ending = threading.Timer(0.7, abort.trigger)
    if abandoned:
        ending.start()
    with losses.counted() as found, pytest.raises(errors.CeleriacError):
        list(generator_of(hanging_refusal).stream(request(), timeout=20, abort=abort))
    ending.cancel()
    assert found.usage.tokens == 0


@pytest.mark.parametrize(
    "reply",
    [answered({"error": {"code": "rate_limit_exceeded"}}), [(0.0, HEAD + chunk(b"<html>") + END)]],
    ids=["an error as the first event", "no such service"],
)
def test_also_one_under_the_status_of_an_answer(
    scripted: Callable[[Script], Scripted], generator_of: Callable[..., OpenAIGenerator], reply: Script
) -> None:
    assert lost(generator_of(scripted(reply))).tokens == 0


def test_behind_a_proxy_a_call_that_was_given_up_is_paid_for_too(
    standin: StandInProcess, generator: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", standin.url.removesuffix("/v1"))
    standin.configure(first_token=50, late_headers=True)
    client = make_client("key", "http://models.invalid/v1", 5.0)
    assert lost(OpenAIGenerator(client, "gpt-5-mini"), timeout=3.0).input_tokens == PROMPT_TOKENS
    client.close()


def test_so_is_a_service_that_can_not_be_reached(free_port: Callable[[], int]) -> None:
    client = make_client("key", f"http://127.0.0.1:{free_port()}/v1", 1.0)
    assert lost(OpenAIGenerator(client, "gpt-5-mini")).tokens == 0
    client.close()


def test_and_an_answer_that_came_to_its_end_lost_nothing(generator: Make) -> None:
    with losses.counted() as found:
        assert answer(generator)
    assert found.usage.tokens == 0


def test_text_of_any_script_and_any_split_arrives_unchanged(standin: StandInProcess, generator: Make) -> None:
    text = 'Größe \u2028 見出し 🙂 "quoted" \\ data: [DONE] [1]'
    standin.configure(answer=text)

    assert answer(generator) == text
