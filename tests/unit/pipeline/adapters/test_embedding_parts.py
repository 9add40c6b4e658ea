"""Bulk embedding against the stand-in: what comes through, and what it costs, while the service misbehaves."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pipeline import errors
from pipeline.adapters.openai_client import make_client
from pipeline.adapters.openai_embedder import OpenAIEmbedder
from pipeline.gate import LocalGateStore
from pipeline.pacing import Pace
from pipeline.seams import EmbeddedPart, Embedder
from tests.standin import model as standin_model
from tests.standin.fixture import StandInProcess

Make = Callable[..., OpenAIEmbedder]
TEXTS = [f"text number {number}" for number in range(41)]


@pytest.fixture
def embedder(standin: StandInProcess) -> Iterator[Make]:
    """Makes embedders of the stand-in, each with a pace of its own that is proven already."""
    client = make_client("key", standin.url, 5.0)
    before = set(threading.enumerate())

    def make(proven: bool = True, **changes: int) -> OpenAIEmbedder:
        limits = {"max_texts": 10, "max_tokens": 100_000, "concurrency": 4, **changes}
        pace = Pace("openai", LocalGateStore(), most=limits["concurrency"])
        if proven:
            with pace.permit():
                pass
        return OpenAIEmbedder(client, "text-embedding-3-small", None, **limits, pace=pace)

    yield make
    for sender in set(threading.enumerate()) - before:
        sender.join(5)  # one may still read what nobody waits for
    client.close()


def collected(parts: Iterator[EmbeddedPart]) -> tuple[dict[int, Any], Exception | None]:
    """Vectors by place, and the error it ended with."""
    found: dict[int, Any] = {}
    try:
        for part in parts:
            for place, vector in enumerate(part.vectors, part.first):
                assert place not in found
                found[place] = vector
    except errors.CeleriacError as error:
        return found, error
    return found, None


def asked(standin: StandInProcess) -> int:
    return int(standin.counters()["texts_asked"])


def test_every_text_has_its_own_vector_whatever_the_order_of_the_replies(
    standin: StandInProcess, embedder: Make
) -> None:
    standin.configure(vectors="shuffled")
    found, error = collected(embedder(max_texts=3).embed_parts(TEXTS, timeout=20))
    assert error is None
    expected = np.stack([standin_model.vector(text, 1536) for text in TEXTS])
    np.testing.assert_allclose(np.stack([found[place] for place in range(len(TEXTS))]), expected, atol=1e-6)


def test_the_first_request_ever_holds_one_text(standin: StandInProcess, embedder: Make) -> None:
    standin.configure(faults=[{"kind": "status", "status": 429, "retry_after": 60}])
    _, error = collected(embedder(proven=False).embed_parts(TEXTS, timeout=5))
    assert isinstance(error, errors.RateLimited)
    assert asked(standin) == 1


@pytest.mark.parametrize(
    ("limits", "expected"),
    [({"max_texts": 41}, 1), ({"max_texts": 40}, 2), ({"max_tokens": 1}, 41)],
    ids=["fits", "too many texts", "a text above the limit goes alone"],
)
def test_requests_keep_to_both_limits(
    standin: StandInProcess, embedder: Make, limits: dict[str, int], expected: int
) -> None:
    found, _ = collected(embedder(**limits).embed_parts(TEXTS, timeout=20))
    assert len(found) == len(TEXTS)
    assert standin.counters()["calls"] == {"embeddings 200": expected}


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"kind": "status", "status": 500}, errors.ServerFault),
        ({"kind": "hang"}, errors.TimedOut),
        ({"kind": "disconnect"}, errors.Unreachable),
    ],
    ids=["500", "hang", "disconnect"],
)
def test_what_the_other_requests_bring_is_handed_on_before_the_fault_is_raised(
    standin: StandInProcess, embedder: Make, fault: dict[str, Any], kind: type[Exception]
) -> None:
    standin.configure(faults=[{**fault, "count": 1}])
    found, error = collected(embedder().embed_parts(TEXTS, timeout=4))
    assert isinstance(error, kind)
    assert len(TEXTS) - 10 <= len(found) < len(TEXTS)
    assert asked(standin) == len(TEXTS)


def test_what_is_asked_for_again_after_a_fault_is_only_what_is_missing(standin: StandInProcess, embedder: Make) -> None:
    standin.configure(faults=[{"kind": "status", "status": 500, "count": 1}])
    bulk = embedder()
    found, _ = collected(bulk.embed_parts(TEXTS, timeout=5))
    missing = [text for place, text in enumerate(TEXTS) if place not in found]
    again, error = collected(bulk.embed_parts(missing, timeout=5))
    assert error is None
    assert len(found) + len(again) == len(TEXTS)
    assert asked(standin) == len(TEXTS) + len(missing)


def test_after_a_refusal_nothing_more_is_sent(standin: StandInProcess, embedder: Make) -> None:
    standin.configure(faults=[{"kind": "status", "status": 429, "retry_after": 60}])
    bulk = embedder()
    _, first = collected(bulk.embed_parts(TEXTS, timeout=5))
    sent = asked(standin)
    _, second = collected(bulk.embed_parts(TEXTS, timeout=5))
    assert isinstance(first, errors.RateLimited)
    assert isinstance(second, errors.Postponed)
    assert sent <= 30  # those that were let in before the refusal came
    assert asked(standin) == sent


def test_where_the_first_request_is_slow_the_rest_follows_it(standin: StandInProcess, embedder: Make) -> None:
    """The others don't wait for its outcome for so long, but this call has not failed for that."""
    standin.configure(embedding_latency=1.3)
    found, error = collected(embedder(proven=False, max_texts=40).embed_parts(TEXTS, timeout=5))
    assert error is None
    assert len(found) == len(TEXTS)


def test_questions_are_not_held_up_by_a_closed_gate(standin: StandInProcess, embedder: Make) -> None:
    standin.configure(faults=[{"kind": "status", "status": 429, "retry_after": 60, "count": 1}])
    bulk = embedder(proven=False)
    collected(bulk.embed_parts(TEXTS, timeout=5))
    assert len(bulk.embed(["a question"], timeout=5).vectors) == 1


def test_a_request_that_is_itself_at_fault_ends_it(standin: StandInProcess, embedder: Make) -> None:
    standin.configure(faults=[{"kind": "status", "status": 400}], embedding_latency=0.05)
    _, error = collected(embedder(concurrency=1).embed_parts(TEXTS, timeout=5))
    assert isinstance(error, errors.RequestRejected)
    assert asked(standin) == 10


def test_the_timeout_bounds_each_request_alone(standin: StandInProcess, embedder: Make) -> None:
    standin.configure(embedding_latency=0.1)
    began = time.monotonic()
    found, error = collected(embedder(max_texts=1, concurrency=1).embed_parts(TEXTS, timeout=3.0))
    assert error is None
    assert len(found) == len(TEXTS)
    assert time.monotonic() - began > 3.0, "or nothing is shown"


def test_closing_it_sends_no_more_and_does_not_wait(standin: StandInProcess, embedder: Make) -> None:
    parts = embedder(max_texts=1, concurrency=2).embed_parts(TEXTS, timeout=20)
    assert next(parts)
    standin.configure(held=True)
    standin.wait_for(lambda seen: seen["in_flight"] == 2)
    sent = asked(standin)
    parts.close()  # type: ignore[attr-defined]
    assert standin.counters()["in_flight"] == 2, "it waited for those under way"
    standin.configure()
    standin.wait_for(lambda seen: seen["in_flight"] == 0)
    time.sleep(0.5)  # others would have come after them
    assert asked(standin) == sent


def test_requests_at_once_are_bounded_for_all_calls_of_a_process(standin: StandInProcess, embedder: Make) -> None:
    standin.configure(embedding_latency=0.05)
    shared: Embedder = embedder(max_texts=1, concurrency=3)
    calls = [shared.embed_parts(TEXTS[start::4], timeout=5) for start in range(4)]
    for part in itertools.zip_longest(*calls):
        assert part
    assert standin.counters()["max_in_flight"] <= 3
