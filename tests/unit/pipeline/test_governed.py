"""Parts of a question behind the governor, against the stand-in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pipeline import governor
from pipeline.adapters.http_reranker import HttpReranker
from pipeline.adapters.openai_client import make_client
from pipeline.adapters.openai_generator import OpenAIGenerator
from pipeline.breaker import Breaker
from pipeline.errors import Postponed, RateLimited, ServerFault, Unavailable
from pipeline.gate import FAULTS_TO_CLOSE, SHORTEST_CLOSURE, LocalGateStore
from pipeline.governed import GovernedGenerator, GuardedReranker, GuardedRetriever
from pipeline.governor import Admission, Unlimited, Upstream
from pipeline.seams import GenerationRequest
from pipeline.types import Hit, IndexRef, Passage
from tests.standin.fixture import StandInProcess

PROMPT = "[1] Cats sleep all day long.\n[2] At night dogs bark.\n\nQuestion: when do dogs bark?"
INDEX = IndexRef(kb_id="k", model="m", dimensions=2)


class Ledger(Unlimited):
    """Lets everything through and keeps what it was told."""

    def __init__(self) -> None:
        self.reserved: list[int] = []
        self.settled: list[tuple[int | None, list[str]]] = []

    def admit(self, lane: Any, tokens: int, *, wait: float, probe: bool) -> Admission:
        self.reserved.append(tokens)
        return Admission(tokens=tokens)

    def settle(
        self, lane: Any, admission: Admission, used: int | None = None, seen: Any = None, *, made: bool = True
    ) -> None:
        self.settled.append((used, sorted(seen or {})))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def upstream(ledger: Ledger) -> Upstream:
    return Upstream("openai", Breaker("openai", LocalGateStore()), ledger)


@pytest.fixture
def generator(standin: StandInProcess, upstream: Upstream) -> Iterator[GovernedGenerator]:
    client = make_client("key", standin.url, 5.0)
    asked: dict[str, Upstream] = {"gpt-5-mini": upstream}
    yield GovernedGenerator(
        OpenAIGenerator(client, "gpt-5-mini"), "gpt-5-mini", lambda name: asked.setdefault(name, Upstream.alone(name))
    )
    client.close()


def request(**options: Any) -> GenerationRequest:
    return GenerationRequest(question="when?", passages=(), messages=(("user", PROMPT),), **options)


def answer(generator: GovernedGenerator, **options: Any) -> str:
    return "".join(delta.text for delta in generator.stream(request(**options), timeout=5))


class TestGenerator:
    def test_what_is_reserved_is_corrected_by_what_was_used(
        self, generator: GovernedGenerator, ledger: Ledger, standin: StandInProcess
    ) -> None:
        standin.configure(requests_per_minute=600, tokens_per_minute=600_000)
        assert answer(generator) == "At night dogs bark. [2]"
        seen = standin.counters()
        assert ledger.reserved[0] > seen["input_tokens"] + seen["output_tokens"]
        assert ledger.settled == [(seen["input_tokens"] + seen["output_tokens"], ["requests", "tokens"])]

    def test_after_a_refusal_the_model_is_not_called(
        self, generator: GovernedGenerator, standin: StandInProcess
    ) -> None:
        standin.configure(faults=[{"kind": "status", "status": 429, "retry_after": 30, "count": 1}])
        with pytest.raises(RateLimited):
            answer(generator)
        for _ in range(3):
            with pytest.raises(Postponed):
                answer(generator)
        assert standin.counters()["calls"] == {"chat 429": 1}

    def test_another_model_is_called_all_the_same(self, generator: GovernedGenerator, standin: StandInProcess) -> None:
        standin.configure(faults=[{"kind": "status", "status": 429, "retry_after": 30, "count": 1}])
        with pytest.raises(RateLimited):
            answer(generator)
        assert answer(generator, model="another")

    @pytest.mark.parametrize("fault", [{"kind": "status", "status": 500}, {"kind": "disconnect", "after_chunks": 2}])
    def test_a_model_that_keeps_failing_or_breaking_off_is_not_called(
        self, fault: dict[str, Any], generator: GovernedGenerator, standin: StandInProcess
    ) -> None:
        standin.configure(faults=[fault])
        for _ in range(FAULTS_TO_CLOSE):
            with pytest.raises(ServerFault):
                answer(generator)
        with pytest.raises(Unavailable):
            answer(generator)
        assert sum(standin.counters()["calls"].values()) == FAULTS_TO_CLOSE

    def test_closing_it_closes_the_call_and_says_nothing_against_the_model(
        self, generator: GovernedGenerator, upstream: Upstream, standin: StandInProcess
    ) -> None:
        standin.configure(stream_seconds=20)
        pieces = generator.stream(request(), timeout=30)
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]
        standin.wait_for(lambda seen: seen["streams_open"] == 0 and len(seen["closed_early"]) == 1)
        assert upstream.breaker.gate(0.0)[0].faults == 0


class Broken:
    """A retriever that can do nothing."""

    def vector_search(self, index: Any, vector: Any, limit: int, *, timeout: float) -> list[Hit]:
        raise ServerFault("The store broke.")

    keyword_search = vector_search


def test_both_branches_of_a_store_share_its_breaker(upstream: Upstream) -> None:
    store: Any = GuardedRetriever(Broken(), upstream)
    for number in range(FAULTS_TO_CLOSE):
        with pytest.raises(ServerFault):
            (store.vector_search if number % 2 else store.keyword_search)(INDEX, None, 1, timeout=1)
    for search in (store.vector_search, store.keyword_search):
        with pytest.raises(Unavailable, match="The store broke"):
            search(INDEX, None, 1, timeout=1)


class Back:
    """A retriever that works, in a while."""

    def vector_search(self, index: Any, vector: Any, limit: int, *, timeout: float) -> list[Hit]:
        time.sleep(0.1)
        return []

    keyword_search = vector_search


def test_when_a_store_is_back_both_branches_of_the_first_search_find_it(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        governor, "WAIT_IN_PLACE", 20.0
    )  # longer than the probe takes, be the machine as busy as it may
    for _ in range(FAULTS_TO_CLOSE):
        with pytest.raises(ServerFault), upstream.call():
            raise ServerFault("The store broke.")
    time.sleep(SHORTEST_CLOSURE)
    store: Any = GuardedRetriever(Back(), upstream)
    with ThreadPoolExecutor(2) as pool:
        branches = [
            pool.submit(search, INDEX, None, 1, timeout=1) for search in (store.vector_search, store.keyword_search)
        ]
        assert [branch.result() for branch in branches] == [[], []]


def test_a_probe_that_takes_long_is_not_waited_for(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(FAULTS_TO_CLOSE):
        upstream.breaker.faulted(ServerFault("The store broke."), probe=False)
    store: Any = GuardedRetriever(Back(), upstream)
    begun = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(governor, "WAIT_IN_PLACE", 60.0)
        with pytest.raises(Unavailable):
            store.vector_search(INDEX, None, 1, timeout=1)
    assert time.monotonic() - begun < 30, "while it is closed there is nothing to wait for"
    time.sleep(SHORTEST_CLOSURE)
    with upstream.call(), pytest.raises(Unavailable):
        store.vector_search(INDEX, None, 1, timeout=1)
    assert time.monotonic() - begun < 60, "the probe has no end"


def test_a_reranker_that_keeps_failing_is_not_called(standin: StandInProcess, upstream: Upstream) -> None:
    inner = HttpReranker(standin.url, "", None, 5.0)
    reranker, passages = GuardedReranker(inner, upstream), [Passage(chunk_id="c", document_id="d", text="words")]
    assert reranker.rerank("words", passages, timeout=5)
    standin.configure(faults=[{"kind": "status", "status": 500, "endpoint": "rerank"}])
    for _ in range(FAULTS_TO_CLOSE):
        with pytest.raises(ServerFault):
            reranker.rerank("words", passages, timeout=5)
    with pytest.raises(Unavailable):
        reranker.rerank("words", passages, timeout=5)
    assert standin.counters()["calls"] == {"rerank 200": 1, "rerank 500": FAULTS_TO_CLOSE}
    inner.close()
