"""Two stacks for all acceptance tests: one without any model service, one with the stand-in of OpenAI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.live_stack import LiveStack
from tests.standin.fixture import StandInProcess

PARAGRAPHS = 60
KEY = "sk-acceptance-4f1d9c27"


@dataclass(frozen=True)
class Corpus:
    """Paragraphs as JSON lines, and questions which they answer."""

    file: Path
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Stacks:
    """All that runs for these tests."""

    offline: LiveStack
    served: LiveStack
    standin: StandInProcess


@pytest.fixture(scope="session")
def stacks() -> Iterator[Stacks]:
    """Both stacks, started side by side."""
    standin = StandInProcess()
    # Below 50 MB, so that a file of that size is refused and not worked on for minutes.
    offline = LiveStack(CELERIAC_MAX_SOURCE_BYTES="20000000", CELERIAC_CACHE="false")
    # What a killed worker held is delivered again; what was asked before is asked again.
    # Not before the usual 10 s of silence: a worker that stood still for a while is no dead one.
    soon = {"CELERIAC_SWEEP_EVERY": "1", "CELERIAC_CACHE": "false"}
    # Or what workers have seen in one test decides what they do in the next.
    patient = {"CELERIAC_SILENCE_LEAST": "15"}
    served = LiveStack(OPENAI_BASE_URL=standin.url, OPENAI_API_KEY=KEY, CELERIAC_EMBED_TIMEOUT="10", **soon, **patient)
    with ThreadPoolExecutor(2) as pool:
        try:
            list(pool.map(LiveStack.start, (offline, served)))
            yield Stacks(offline, served, standin)
        finally:
            ends = [pool.submit(stack.stop) for stack in (offline, served)]
            wait(ends)
            standin.stop()
    for end in ends:
        end.result()


@pytest.fixture(scope="session")
def offline(stacks: Stacks) -> LiveStack:
    """A stack as the quick start makes it, with two workers of each gevent kind."""
    return stacks.offline


@pytest.fixture(scope="session")
def served(stacks: Stacks) -> LiveStack:
    """A stack whose models are those of the stand-in."""
    return stacks.served


@pytest.fixture
def standin(stacks: Stacks) -> Iterator[StandInProcess]:
    """The stand-in of ``served``, without faults before and after, and with workers that hold nothing against it."""
    stacks.standin.reset()
    yield stacks.standin
    stacks.standin.reset()
    stacks.served.forget_refusals()


@pytest.fixture(scope="session")
def corpus(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The first paragraphs of xquad_en and one question for each of twenty of them."""
    source = shared_data / "xquad_en"
    file = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    with (source / "corpus.jsonl").open() as lines:
        file.write_text("".join(line for line, _ in zip(lines, range(PARAGRAPHS), strict=False)))
    texts = {
        query["_id"]: query["text"] for query in map(json.loads, (source / "queries.jsonl").read_text().splitlines())
    }
    by_paragraph: dict[str, str] = {}
    for line in (source / "qrels.tsv").read_text().splitlines()[1:]:
        query, paragraph, _ = line.split("\t")
        by_paragraph.setdefault(paragraph, texts[query])
    return Corpus(file, tuple(by_paragraph[f"p{number}"] for number in range(20)))


@pytest.fixture(scope="session")
def filled(offline: LiveStack, corpus: Corpus) -> LiveStack:
    """``offline`` with the corpus in the default knowledge base."""
    assert offline.cli("ingest", corpus.file, "--json").json["indexed"] == PARAGRAPHS
    return offline


@pytest.fixture(scope="session")
def served_filled(served: LiveStack, corpus: Corpus) -> LiveStack:
    """``served`` with the corpus in the default knowledge base."""
    assert served.cli("ingest", corpus.file, "--json").json["indexed"] == PARAGRAPHS
    return served
