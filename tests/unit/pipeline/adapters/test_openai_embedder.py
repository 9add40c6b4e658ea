from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from pipeline import errors
from pipeline.adapters import http_deadline, openai_embedder
from pipeline.adapters.openai_client import make_client
from pipeline.adapters.openai_embedder import MAX_TEXT_TOKENS, OpenAIEmbedder
from pipeline.breaker import Breaker
from pipeline.gate import LocalGateStore
from pipeline.governor import Unlimited, Upstream
from pipeline.pacing import Pace
from tests.standin import model as standin_model
from tests.standin.fixture import StandInProcess
from tests.standin.scripted import Script, Scripted

Make = Callable[..., OpenAIEmbedder]


@pytest.fixture
def embedder(standin: StandInProcess) -> Iterator[Make]:
    """Makes embedders of the stand-in."""
    client = make_client("key", standin.url, 5.0)

    def make(model: str = "text-embedding-3-small", dimensions: int | None = None, **changes: int) -> OpenAIEmbedder:
        limits = {"max_texts": 256, "max_tokens": 100_000, "concurrency": 4, **changes}
        return OpenAIEmbedder(client, model, dimensions, **limits)

    yield make
    client.close()


@pytest.fixture
def embedder_of(request: pytest.FixtureRequest) -> Callable[[Scripted], OpenAIEmbedder]:
    """Makes embedders of other services."""

    def make(service: Scripted) -> OpenAIEmbedder:
        client = make_client("key", f"{service.host}/v1", 5.0)
        request.addfinalizer(client.close)
        return OpenAIEmbedder(client, "text-embedding-3-small", None, max_texts=9, max_tokens=999, concurrency=1)

    return make


def requests(standin: StandInProcess) -> int:
    return sum(standin.counters()["calls"].values())


def test_vectors_are_of_unit_length_float32_and_of_the_models_size(standin: StandInProcess, embedder: Make) -> None:
    found = embedder().embed(["one", "two"], timeout=5)

    assert [vector.shape for vector in found.vectors] == [(1536,), (1536,)]
    assert all(vector.dtype == np.float32 for vector in found.vectors)
    assert [float(np.linalg.norm(vector)) for vector in found.vectors] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert found.tokens == 2


def test_vectors_stay_in_the_order_of_the_texts_across_requests(standin: StandInProcess, embedder: Make) -> None:
    """The service answers each request backwards, and the requests run side by side."""
    standin.configure(vectors="shuffled")
    texts = [f"text number {number}" for number in range(23)]

    found = embedder(max_texts=5).embed(texts, timeout=5)

    expected = [standin_model.vector(text, 1536) for text in texts]
    assert np.allclose(np.stack(found.vectors), np.stack(expected), atol=1e-6)


@pytest.mark.parametrize(
    ("texts", "limits", "expected"),
    [
        (["word"] * 10, {"max_texts": 10}, 1),
        (["word"] * 11, {"max_texts": 10}, 2),
        (["word " * 40] * 10, {"max_tokens": 100}, 10),
        (["word " * 10] * 10, {"max_tokens": 100}, 2),
        (["word " * 300, "word"], {"max_tokens": 100}, 2),
    ],
    ids=["fits", "too many texts", "one text a request", "too many tokens", "a text above the limit goes alone"],
)
def test_requests_keep_to_both_limits(
    standin: StandInProcess, embedder: Make, texts: list[str], limits: dict[str, int], expected: int
) -> None:
    found = embedder(**limits).embed(texts, timeout=5)

    assert len(found.vectors) == len(texts)
    assert requests(standin) == expected


@pytest.mark.parametrize("concurrency", [1, 3])
def test_requests_run_side_by_side_up_to_the_concurrency(
    standin: StandInProcess, embedder: Make, concurrency: int
) -> None:
    standin.configure(held=True)

    with ThreadPoolExecutor(1) as pool:
        embedded = pool.submit(embedder(max_texts=1, concurrency=concurrency).embed, ["word"] * 9, timeout=20)
        standin.wait_for(lambda seen: seen["in_flight"] == concurrency)
        standin.configure()

    assert len(embedded.result().vectors) == 9
    assert standin.counters()["max_in_flight"] == concurrency


def test_no_text_needs_no_request(standin: StandInProcess, embedder: Make) -> None:
    assert embedder().embed([], timeout=5).vectors == ()
    assert requests(standin) == 0


def test_an_empty_text_has_a_vector_like_any_other(standin: StandInProcess, embedder: Make) -> None:
    """The service refuses an empty string, and one empty text must not fail a whole batch."""
    found = embedder().embed(["", "word"], timeout=5)

    assert len(found.vectors) == 2


def test_too_long_a_text_is_cut_and_the_cut_is_logged(standin: StandInProcess, embedder: Make) -> None:
    with capture_logs() as logged:
        embedder().embed(["word " * 20_000], timeout=5)

    assert standin.counters()["embedding_tokens"] <= MAX_TEXT_TOKENS
    assert [entry["event"] for entry in logged] == ["embedding_text_cut"]


def test_a_vector_that_is_not_of_unit_length_is_scaled(standin: StandInProcess, embedder: Make) -> None:
    standin.configure(vectors="unscaled")

    (vector,) = embedder().embed(["word"], timeout=5).vectors

    assert float(np.linalg.norm(vector)) == pytest.approx(1.0, abs=1e-5)


def test_a_service_that_knows_no_base64_is_understood(standin: StandInProcess, embedder: Make) -> None:
    standin.configure(vectors="floats")

    (vector,) = embedder().embed(["word"], timeout=5).vectors

    assert np.allclose(vector, standin_model.vector("word", 1536), atol=1e-6)


@pytest.mark.parametrize("vectors", ["zero", "nan", "missing"])
def test_vectors_that_no_search_could_use_are_refused(standin: StandInProcess, embedder: Make, vectors: str) -> None:
    standin.configure(vectors=vectors)

    with pytest.raises(errors.ServerFault):
        embedder().embed(["one", "two"], timeout=5)


def test_a_reply_that_is_not_json_is_a_fault_of_the_server(standin: StandInProcess, embedder: Make) -> None:
    standin.configure(faults=[{"kind": "malformed"}])

    with pytest.raises(errors.ServerFault, match="not JSON"):
        embedder().embed(["one"], timeout=5)


@pytest.mark.parametrize("usage", ["none", [1], {"prompt_tokens": "n/a"}], ids=json.dumps)
def test_a_usage_of_another_form_is_a_fault_of_the_server(
    scripted: Callable[[Script], Scripted], embedder_of: Callable[[Scripted], OpenAIEmbedder], usage: Any
) -> None:
    body = json.dumps({"data": [{"index": 0, "embedding": [0.5] * 1536}], "usage": usage}).encode()
    service = scripted([(0.0, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))])

    with pytest.raises(errors.ServerFault, match="usage"):
        embedder_of(service).embed(["one"], timeout=5)


@pytest.mark.parametrize("fault", [{"kind": "hang"}, {"kind": "drip", "pause": 0.05}], ids=["hangs", "drips"])
def test_the_timeout_bounds_the_whole_call_however_the_service_delays(
    standin: StandInProcess, embedder: Make, fault: dict[str, Any]
) -> None:
    """A drip keeps every single read short: only a deadline over the whole reply ends it."""
    standin.configure(faults=[fault])
    started = time.monotonic()

    with pytest.raises(errors.TimedOut):
        embedder().embed(["one"], timeout=0.5)

    assert 0.4 < time.monotonic() - started < 10


def test_the_timeout_bounds_a_reply_whose_headers_never_end(
    hanging_headers: Scripted, embedder_of: Callable[[Scripted], OpenAIEmbedder]
) -> None:
    started = time.monotonic()

    with pytest.raises(errors.TimedOut):
        embedder_of(hanging_headers).embed(["one"], timeout=0.5)

    assert 0.4 < time.monotonic() - started < 10


def test_a_refusal_that_gives_no_reason_is_still_one(
    hanging_refusal: Scripted, embedder_of: Callable[[Scripted], OpenAIEmbedder]
) -> None:
    started = time.monotonic()

    with pytest.raises(errors.RateLimited) as caught:
        embedder_of(hanging_refusal).embed(["one"], timeout=10)

    assert caught.value.retry_after == 7
    assert time.monotonic() - started < 8


def test_a_refusal_that_gives_no_reason_in_the_time_of_the_call_is_still_one(
    hanging_refusal: Scripted, embedder_of: Callable[[Scripted], OpenAIEmbedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_deadline, "_REFUSAL_SECONDS", 60.0)
    with pytest.raises(errors.RateLimited):
        embedder_of(hanging_refusal).embed(["one"], timeout=3)


def test_requests_after_one_another_share_one_timeout(standin: StandInProcess, embedder: Make) -> None:
    standin.configure(embedding_latency=0.3)

    with pytest.raises(errors.TimedOut):
        embedder(max_texts=1, concurrency=1).embed(["word"] * 10, timeout=0.5)

    assert standin.counters()["texts"] <= 2


def test_after_a_failure_what_still_waits_is_not_sent(standin: StandInProcess, embedder: Make) -> None:
    standin.configure(embedding_latency=0.1, faults=[{"kind": "status", "status": 400, "count": 1}])

    with pytest.raises(errors.RequestRejected):
        embedder(max_texts=1, concurrency=1).embed(["word"] * 10, timeout=5)

    assert requests(standin) <= 2


def test_a_model_that_does_not_exist_is_named(standin: StandInProcess, embedder: Make) -> None:
    standin.configure(models=["another"])

    with pytest.raises(errors.ModelNotFound, match="text-embedding-3-small"):
        embedder().embed(["one"], timeout=5)


class Settled(Unlimited):
    """Notes what calls are said to have used."""

    def __init__(self) -> None:
        self.used: list[int | None] = []

    def settle(self, lane: Any, admission: Any, used: int | None = None, *_: Any, **__: Any) -> None:
        self.used.append(used)


@pytest.mark.parametrize(("reported", "used"), [(7, 7), (0, None)])
@pytest.mark.parametrize("bulk", [False, True], ids=["people", "ingest"])
def test_where_the_service_does_not_say_what_it_used_what_was_reserved_counts(
    standin: StandInProcess, monkeypatch: pytest.MonkeyPatch, reported: int, used: int | None, bulk: bool
) -> None:
    monkeypatch.setattr(openai_embedder, "_tokens", lambda *_: reported)
    client, settled = make_client("key", standin.url, 5.0), Settled()
    embedder = OpenAIEmbedder(
        client,
        "text-embedding-3-small",
        None,
        max_texts=10,
        max_tokens=1000,
        concurrency=1,
        pace=Pace("openai", LocalGateStore(), most=1, limiter=settled),
        upstream=Upstream("openai", Breaker("openai", LocalGateStore()), settled),
    )
    list(embedder.embed_parts(["one"], timeout=5)) if bulk else embedder.embed(["one"], timeout=5)
    client.close()
    assert settled.used == [used]


class TestDimensions:
    @pytest.mark.parametrize(
        ("model", "size"),
        [("text-embedding-3-small", 1536), ("text-embedding-3-large", 3072), ("text-embedding-ada-002", 1536)],
    )
    def test_of_a_known_model_are_known_without_a_request(
        self, standin: StandInProcess, embedder: Make, model: str, size: int
    ) -> None:
        assert embedder(model).dimensions == size
        assert requests(standin) == 0

    def test_of_an_unknown_model_are_learned_once_by_however_many_ask(
        self, standin: StandInProcess, embedder: Make
    ) -> None:
        unknown = embedder("my-embedder")

        with ThreadPoolExecutor(8) as pool:
            sizes = list(pool.map(lambda _: unknown.dimensions, range(8)))

        assert sizes == [1536] * 8
        assert requests(standin) == 1

    def test_asked_for_are_sent_and_given(self, standin: StandInProcess, embedder: Make) -> None:
        small = embedder(dimensions=256)

        (vector,) = small.embed(["one"], timeout=5).vectors

        assert vector.shape == (256,)
        assert small.dimensions == 256
        assert standin.counters()["last_request"]["dimensions"] == 256

    def test_that_are_the_models_own_are_not_sent(self, standin: StandInProcess, embedder: Make) -> None:
        """text-embedding-ada-002 refuses the parameter even so."""
        embedder("text-embedding-ada-002", dimensions=1536).embed(["one"], timeout=5)

        assert "dimensions" not in standin.counters()["last_request"]

    def test_that_differ_from_what_is_expected_are_refused(self, standin: StandInProcess, embedder: Make) -> None:
        """A service that ignores the parameter must not fill an index with vectors of another size."""
        liar = embedder("text-embedding-3-large", dimensions=1536)
        liar._asked = None

        with pytest.raises(errors.RequestRejected, match="3072"):
            liar.embed(["one"], timeout=5)
