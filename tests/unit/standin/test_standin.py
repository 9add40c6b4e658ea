from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from pipeline import prompts
from pipeline.types import Passage
from tests.standin import model
from tests.standin.config import Config, Fault
from tests.standin.faults import Faults
from tests.standin.fixture import StandInProcess
from tests.standin.limiter import Bucket


def post(url: str, body: dict[str, Any]) -> tuple[int, dict[str, str]]:
    """Status and headers, names in lower case."""
    request = urllib.request.Request(url, data=json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            reply.read()
            return reply.status, {name.lower(): value for name, value in reply.headers.items()}
    except urllib.error.HTTPError as error:
        error.read()
        return error.code, {name.lower(): value for name, value in error.headers.items()}


def embed(standin: StandInProcess) -> tuple[int, dict[str, str]]:
    return post(f"{standin.url}/embeddings", {"model": "m", "input": ["word"]})


class TestModel:
    def test_texts_that_share_words_are_nearer_than_texts_that_share_none(self) -> None:
        question = model.vector("how do vaccines protect children", 1536)
        near = model.vector("vaccines protect children well", 1536)
        far = model.vector("stock markets fell sharply", 1536)

        assert float(question @ near) > 0.5
        assert abs(float(question @ far)) < 0.2

    @pytest.mark.parametrize("text", ["", " ", "word", "!?"])
    def test_every_text_has_a_vector_of_unit_length(self, text: str) -> None:
        assert float(np.linalg.norm(model.vector(text, 64))) == pytest.approx(1.0, abs=1e-5)

    def test_an_answer_is_a_sentence_of_the_best_passage_with_its_marker(self) -> None:
        prompt = "[1] Cats purr.\n[2] Rain fell. Dogs bark at strangers.\n[3] Fish swim.\n\nQuestion: why do dogs bark?"

        assert model.answer([prompt]) == "Dogs bark at strangers. [2]"

    def test_the_pipelines_own_prompt_is_understood(self) -> None:
        texts = ["Cats sleep.", "Rain fell. Dogs bark at foxes."]
        passages = [Passage(chunk_id=text, document_id="d", title="About pets", text=text) for text in texts]
        messages = prompts.render("Why do dogs bark?", passages)

        assert model.answer([content for _, content in messages]) == "Dogs bark at foxes. [2]"

    def test_without_passages_it_says_that_it_found_nothing(self) -> None:
        assert model.answer(["Question: why?"]) == model.NO_PASSAGE

    @pytest.mark.parametrize("chunks", [1, 3, 5, 40])
    def test_an_answer_comes_in_as_many_pieces_as_asked_for(self, chunks: int) -> None:
        parts = model.pieces("five words are in here", chunks)

        assert len(parts) == chunks
        assert "".join(parts).endswith("here")


class TestFaults:
    def test_the_same_seed_hits_the_same_requests(self) -> None:
        config = Config(faults=[Fault(kind="hang", probability=0.5)])

        def hits(seed: int) -> list[bool]:
            faults = Faults(config, seed)
            return [faults.draw("chat") is not None for _ in range(50)]

        assert hits(1) == hits(1)
        assert hits(1) != hits(2)

    def test_a_share_can_be_spread_evenly(self) -> None:
        faults = Faults(Config(faults=[Fault(kind="hang", probability=0.1, evenly=True)]), 0)

        assert [number for number in range(1, 41) if faults.draw("chat")] == [10, 20, 30, 40]

    def test_a_counted_fault_is_used_up_and_hits_only_its_endpoint(self) -> None:
        faults = Faults(Config(faults=[Fault(kind="hang", endpoint="chat", count=2)]), 0)

        drawn = [faults.draw("embeddings")] + [faults.draw("chat") for _ in range(3)]

        assert [fault is not None for fault in drawn] == [False, True, True, False]

    def test_faults_one_after_the_other_make_phases_from_the_first_request_on(self) -> None:
        phases = [Fault(kind="status", status=429, seconds=0.2), Fault(kind="status", status=500, after=0.2)]
        faults = Faults(Config(faults=phases), 0)
        time.sleep(0.25)
        first = faults.draw("embeddings")
        time.sleep(0.25)
        second = faults.draw("embeddings")
        assert [fault and fault.status for fault in (first, second)] == [429, 500]

    def test_a_fault_ends_with_its_window_of_time(self) -> None:
        faults = Faults(Config(faults=[Fault(kind="hang", seconds=0.05)]), 0)

        assert faults.draw("chat") is not None
        time.sleep(0.06)
        assert faults.draw("chat") is None


class TestLimiter:
    def test_lets_through_what_fits_and_says_how_long_to_wait_for_the_rest(self) -> None:
        bucket = Bucket(per_minute=600, burst_seconds=1.0)

        waits = [bucket.take(1) for _ in range(11)]

        assert waits[:10] == [0.0] * 10
        assert waits[10] == pytest.approx(0.1, abs=0.02)

    def test_a_request_above_the_whole_burst_passes_when_the_bucket_is_full_and_is_paid_for_afterwards(self) -> None:
        bucket = Bucket(per_minute=60, burst_seconds=1.0)

        assert bucket.take(30) == 0.0
        assert bucket.take(1) == pytest.approx(30.0, abs=0.1)


def test_the_rate_limit_answers_429_with_the_time_to_wait_and_what_is_left(standin: StandInProcess) -> None:
    standin.configure(requests_per_minute=120)

    replies = [embed(standin) for _ in range(4)]

    refused = [headers for status, headers in replies if status == 429]
    assert len(refused) >= 1
    assert 0 < float(refused[0]["retry-after"]) <= 0.5
    assert refused[0]["x-ratelimit-limit-requests"] == "120"
    assert replies[0][1]["x-ratelimit-remaining-requests"] == "1"


def test_calls_are_counted_by_endpoint_and_status(standin: StandInProcess) -> None:
    standin.configure(models=["m"])

    embed(standin)
    post(f"{standin.url}/embeddings", {"model": "other", "input": "word"})
    post(f"{standin.url}/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hello"}]})

    counters = standin.counters()
    assert counters["calls"] == {"embeddings 200": 1, "embeddings 404": 1, "chat 200": 1}
    assert counters["texts"] == 1
    assert len(counters["request_ids"]) == 3


def test_an_unknown_setting_is_refused(standin: StandInProcess) -> None:
    """A test that misspells a fault must not pass because nothing went wrong."""
    assert post(f"{standin.url.removesuffix('/v1')}/_standin/config", {"first_tokken": 1})[0] == 400


def test_requests_are_served_side_by_side(standin: StandInProcess) -> None:
    standin.configure(held=True)

    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(embed, standin) for _ in range(20)]
        standin.wait_for(lambda seen: seen["in_flight"] == 20)
        standin.configure()

    assert [one.result()[0] for one in asked] == [200] * 20


def test_it_can_be_configured_from_the_command_line_and_stops(start_standin: Callable[..., StandInProcess]) -> None:
    process = start_standin("--set", "api_key=right", "--config", '{"faults": [{"kind": "hang", "count": 0}]}')

    assert embed(process)[0] == 401

    process.stop()
    with pytest.raises(urllib.error.URLError):
        embed(process)


def test_texts_of_refused_requests_are_counted_apart(standin: StandInProcess) -> None:
    standin.configure(faults=[{"kind": "status", "status": 429, "count": 2}])
    assert [embed(standin)[0] for _ in range(3)] == [429, 429, 200]
    assert (standin.counters()["texts"], standin.counters()["texts_asked"]) == (1, 3)


def test_an_answer_begins_with_a_piece_that_has_a_role_and_no_text(standin: StandInProcess) -> None:
    standin.configure(answer="One two.")
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    request = urllib.request.Request(f"{standin.url}/chat/completions", data=json.dumps(body).encode())

    with urllib.request.urlopen(request, timeout=10) as reply:
        events = [json.loads(line[5:]) for line in reply if line.startswith(b"data: {")]

    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "One"},
        {"content": " two."},
        {},
    ]
    assert standin.counters()["output_tokens"] == 2
