from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline import errors
from pipeline.adapters.http_reranker import HttpReranker
from pipeline.types import Passage
from tests.standin.fixture import StandInProcess
from tests.standin.scripted import Scripted

TEXTS = ["cats sleep", "dogs chase cats", "dogs bark loudly", ""]
QUESTION = "dogs bark loudly"
KEY = "rerank-secret-0123456789"


def passages() -> list[Passage]:
    return [Passage(chunk_id=str(n), document_id="d", text=text, score=0.5) for n, text in enumerate(TEXTS)]


Make = Callable[..., HttpReranker]


@pytest.fixture
def reranker(standin: StandInProcess) -> Iterator[Make]:
    """Makes rerankers; the address is the stand-in's and what is given after it."""
    made: list[HttpReranker] = []

    def make(path: str = "/v1/rerank", host: str = standin.url.removesuffix("/v1")) -> HttpReranker:
        made.append(HttpReranker(host + path, "reranker-1", KEY, 5.0))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_passages_come_best_first_with_scores_of_their_own(standin: StandInProcess, reranker: Make) -> None:
    found = reranker().rerank(QUESTION, passages(), timeout=5)

    assert [passage.chunk_id for passage in found] == ["2", "1", "0", "3"]
    assert [passage.score for passage in found] == pytest.approx([1.0, 1 / 3, 0.0, 0.0])
    assert found[0].text == "dogs bark loudly"


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/rerank"])
def test_the_address_may_be_the_endpoint_or_what_it_lies_under(
    standin: StandInProcess, reranker: Make, path: str
) -> None:
    assert reranker(path).rerank(QUESTION, passages(), timeout=5)[0].chunk_id == "2"


def test_the_dialect_of_text_embeddings_inference_is_found_once_and_kept(
    standin: StandInProcess, reranker: Make
) -> None:
    found = reranker("/tei")

    for _ in range(3):
        assert found.rerank(QUESTION, passages(), timeout=5)[0].chunk_id == "2"

    assert standin.counters()["calls"] == {"rerank 422": 1, "rerank 200": 3}


def test_what_the_service_leaves_out_comes_last_in_its_old_order(standin: StandInProcess, reranker: Make) -> None:
    standin.configure(rerank_limit=1)

    found = reranker().rerank(QUESTION, passages(), timeout=5)

    assert [passage.chunk_id for passage in found] == ["2", "0", "1", "3"]
    assert [passage.score for passage in found[1:]] == [0.0, 0.0, 0.0]


def test_logits_become_scores_between_0_and_1_in_the_same_order(standin: StandInProcess, reranker: Make) -> None:
    standin.configure(rerank_logits=True)

    found = reranker().rerank(QUESTION, passages(), timeout=5)

    assert [passage.chunk_id for passage in found][:2] == ["2", "1"]
    assert found[0].score == pytest.approx(0.9933, abs=1e-3)
    assert all(0.0 <= passage.score <= 1.0 for passage in found)


def test_no_passage_needs_no_request(standin: StandInProcess, reranker: Make) -> None:
    assert reranker().rerank(QUESTION, [], timeout=5) == []
    assert standin.counters()["calls"] == {}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"kind": "status", "status": 429, "retry_after": 2}, errors.RateLimited),
        ({"kind": "status", "status": 500}, errors.ServerFault),
        ({"kind": "status", "status": 400}, errors.RequestRejected),
        ({"kind": "status", "status": 404}, errors.ModelNotFound),
        ({"kind": "status", "status": 403}, errors.AuthenticationFailed),
        ({"kind": "malformed"}, errors.ServerFault),
        ({"kind": "disconnect"}, errors.ServerFault),
    ],
)
def test_each_fault_becomes_the_right_error(
    standin: StandInProcess, reranker: Make, fault: dict[str, Any], expected: type[errors.UpstreamError]
) -> None:
    standin.configure(faults=[fault])

    with pytest.raises(expected) as caught:
        reranker().rerank(QUESTION, passages(), timeout=5)

    assert caught.value.detail["upstream"] == "reranker"
    assert "\n" not in str(caught.value)


def test_a_key_that_the_service_repeats_is_in_no_message(standin: StandInProcess, reranker: Make) -> None:
    standin.configure(api_key="another")

    with pytest.raises(errors.AuthenticationFailed) as caught:
        reranker().rerank(QUESTION, passages(), timeout=5)

    assert KEY not in repr(caught.value)


@pytest.mark.parametrize("fault", [{"kind": "hang"}, {"kind": "drip", "pause": 0.05}], ids=["hangs", "drips"])
def test_the_timeout_bounds_the_whole_call(standin: StandInProcess, reranker: Make, fault: dict[str, Any]) -> None:
    standin.configure(faults=[fault])
    started = time.monotonic()

    with pytest.raises(errors.TimedOut):
        reranker().rerank(QUESTION, passages(), timeout=0.5)

    assert 0.4 < time.monotonic() - started < 10


def test_the_timeout_bounds_a_reply_whose_headers_never_end(hanging_headers: Scripted, reranker: Make) -> None:
    started = time.monotonic()

    with pytest.raises(errors.TimedOut):
        reranker(host=hanging_headers.host).rerank(QUESTION, passages(), timeout=0.5)

    assert 0.4 < time.monotonic() - started < 10


def test_a_refusal_that_gives_no_reason_is_still_one(hanging_refusal: Scripted, reranker: Make) -> None:
    with pytest.raises(errors.RateLimited) as caught:
        reranker(host=hanging_refusal.host).rerank(QUESTION, passages(), timeout=10)

    assert caught.value.retry_after == 7


def test_nobody_there_is_unreachable(free_port: Callable[[], int], reranker: Make) -> None:
    with pytest.raises(errors.Unreachable, match="refused"):
        reranker(host=f"http://127.0.0.1:{free_port()}").rerank(QUESTION, passages(), timeout=5)
