from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline import errors
from pipeline.adapters.openai_client import make_client
from pipeline.adapters.openai_generator import OpenAIGenerator
from pipeline.prices import cost
from pipeline.seams import GenerationRequest
from tests.standin.fixture import StandInProcess

PROMPT = "[1] Cats sleep all day long.\n[2] At night dogs bark. Nobody knows why.\n\nQuestion: when do dogs bark?"


Make = Callable[..., OpenAIGenerator]


@pytest.fixture
def generator(standin: StandInProcess) -> Iterator[Make]:
    """Makes generators that ask the stand-in."""
    client = make_client("key", standin.url, 5.0)
    yield lambda **options: OpenAIGenerator(client, "gpt-5-mini", **options)
    client.close()


def request(**options: Any) -> GenerationRequest:
    return GenerationRequest(question="when?", passages=(), messages=(("user", PROMPT),), **options)


def answer(generator: Make, timeout: float = 5.0) -> str:
    return "".join(delta.text for delta in generator().stream(request(), timeout=timeout))


def test_the_answer_comes_in_pieces_and_cites_its_passage(standin: StandInProcess, generator: Make) -> None:
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
    assert early["at"] - closed < 0.5
    assert early["chunks"] < 1000


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

    assert 0.4 < time.monotonic() - started < 2.0
    standin.wait_for(lambda counters: not counters["streams_open"])


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


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_answer_is_an_error(standin: StandInProcess, generator: Make, text: str) -> None:
    standin.configure(answer=text)

    with pytest.raises(errors.ServerFault, match="empty"):
        answer(generator)


def test_an_answer_at_the_length_limit_is_kept_as_far_as_it_goes(standin: StandInProcess, generator: Make) -> None:
    standin.configure(finish_reason="length")

    assert answer(generator) == "At night dogs bark. [2]"


def test_an_answer_that_a_content_filter_stopped_is_refused_for_good(standin: StandInProcess, generator: Make) -> None:
    standin.configure(finish_reason="content_filter")

    with pytest.raises(errors.RequestRejected, match="content filter"):
        answer(generator)


def test_text_of_any_script_and_any_split_arrives_unchanged(standin: StandInProcess, generator: Make) -> None:
    text = 'Größe \u2028 見出し 🙂 "quoted" \\ data: [DONE] [1]'
    standin.configure(answer=text)

    assert answer(generator) == text
