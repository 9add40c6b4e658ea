from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.upstreams import MOST_KEPT
from pipeline.errors import BadSettings, BudgetSpent, ModelMismatch, RateLimited, TimedOut
from pipeline.settings import Settings
from pipeline.types import Batch, KnowledgeBase
from pipeline.wiring import Parts, once
from tests.installation import eventually, listed, new_kb, scalars

ROOT = Path(__file__).resolve().parents[3]
_LEASE_UNTIL = "SELECT lease_until FROM run_batches WHERE run_id = :id"


def parts_of(**settings: object) -> Parts:
    return Parts(Settings(**settings))  # type: ignore[arg-type]


class Slow:
    """Something that has one expensive part, and one that needs it."""

    def __init__(self) -> None:
        self.built = 0

    @once
    def part(self) -> object:
        """An expensive part."""
        self.built += 1
        time.sleep(0.05)
        return object()

    @once
    def other(self) -> object:
        """Needs the part."""
        return (self.part,)


def test_a_part_is_built_once_though_many_ask_for_it_first_at_the_same_time() -> None:
    slow, start, found = Slow(), threading.Barrier(8, timeout=5), []

    def ask(name: str) -> None:
        start.wait()
        found.append(getattr(slow, name))

    threads = [threading.Thread(target=ask, args=(("part", "other")[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert slow.built == 1
    assert len({id(part) for part in found}) == 2


def test_a_part_that_could_not_be_built_is_tried_again() -> None:
    class Shaky:
        tries = 0

        @once
        def part(self) -> int:
            """Fails at first."""
            self.tries += 1
            if self.tries == 1:
                raise BadSettings("Not yet.")
            return self.tries

    shaky = Shaky()
    with pytest.raises(BadSettings):
        _ = shaky.part
    assert shaky.part == shaky.part == 2


def test_two_installations_share_no_part() -> None:
    assert Slow().part is not Slow().part


@pytest.mark.parametrize(("part", "mend"), [("engine", "DATABASE_URL"), ("redis", "REDIS_URL"), ("openai", "OPENAI")])
def test_a_service_that_nobody_named_is_asked_for(part: str, mend: str) -> None:
    with pytest.raises(BadSettings) as caught:
        getattr(parts_of(), part)
    assert mend in str(caught.value)


def test_a_store_without_its_server_is_refused() -> None:
    with pytest.raises(BadSettings, match="Weaviate") as caught:
        _ = parts_of(store="weaviate").store
    assert "WEAVIATE_URL" in caught.value.hint


@pytest.mark.parametrize(
    ("settings", "embedder", "generator"),
    [
        ({}, "WordllamaEmbedder", "ExtractiveGenerator"),
        ({"OPENAI_API_KEY": "k"}, "OpenAIEmbedder", "GovernedGenerator"),
        ({"OPENAI_API_KEY": "k", "embedding_model": "wordllama-256"}, "WordllamaEmbedder", "GovernedGenerator"),
        ({"OPENAI_API_KEY": "k", "chat_model": "extractive"}, "OpenAIEmbedder", "ExtractiveGenerator"),
    ],
    ids=["offline", "service", "offline vectors", "offline answers"],
)
def test_the_settings_choose_the_models(settings: dict[str, str], embedder: str, generator: str) -> None:
    parts = parts_of(**settings)
    assert (type(parts.embedder).__name__, type(parts.generator).__name__) == (embedder, generator)
    parts.close()


@pytest.mark.parametrize(
    ("settings", "model", "dimensions", "is_default"),
    [
        ({}, "wordllama-256", 256, True),
        ({"OPENAI_API_KEY": "k"}, "wordllama-256", 256, False),
        ({"OPENAI_API_KEY": "k"}, "text-embedding-3-small", 1536, True),
        ({"OPENAI_API_KEY": "k"}, "text-embedding-3-small", 512, False),
        ({"OPENAI_API_KEY": "k", "embedding_dimensions": 512}, "text-embedding-3-small", 512, True),
        ({"OPENAI_API_KEY": "k", "embedding_dimensions": 512}, "text-embedding-3-small", 1536, False),
        ({"OPENAI_API_KEY": "k"}, "text-embedding-3-large", 3072, False),
        ({"OPENAI_API_KEY": "k", "embedding_model": "own"}, "own", 7, True),
    ],
)
def test_a_knowledge_base_gets_its_own_model_built_once(
    settings: dict[str, Any], model: str, dimensions: int, is_default: bool
) -> None:
    parts, kb = parts_of(**settings), kb_of(model, dimensions)
    found = parts.embedder_for(kb)
    assert found is parts.embedder_for(kb)
    assert (found is parts.embedder) == is_default
    assert found.model == model
    if model != "own":  # that one's size would have to be asked for
        assert found.dimensions == dimensions
    parts.close()


def test_a_model_that_can_not_be_had_is_no_reason_to_take_another() -> None:
    with pytest.raises(ModelMismatch, match="text-embedding-3-small"):
        parts_of().embedder_for(kb_of("text-embedding-3-small", 1536))


def test_the_length_of_vectors_is_known_asked_for_or_refused() -> None:
    parts = parts_of(OPENAI_API_KEY="k")
    assert parts.dimensions_of("wordllama-256", None) == 256
    assert parts.dimensions_of("text-embedding-3-large", None) == 3072
    assert parts.dimensions_of("text-embedding-3-large", 256) == 256
    with pytest.raises(BadSettings, match="256 dimensions, not 64"):
        parts.dimensions_of("wordllama-256", 64)


def kb_of(model: str, dimensions: int) -> KnowledgeBase:
    return KnowledgeBase(
        id="k",
        tenant="t",
        name="docs",
        embedding_model=model,
        dimensions=dimensions,
        store="pgvector",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_there_is_a_reranker_where_an_address_says_so() -> None:
    assert parts_of().reranker is None
    parts = parts_of(rerank_url="http://127.0.0.1:9/rerank", rerank_api_key="k")
    assert type(parts.reranker).__name__ == "GuardedReranker"
    parts.close()


def test_a_model_has_one_governor_and_another_one_another() -> None:
    parts = parts_of(OPENAI_API_KEY="k")
    assert parts.upstream("chat", "m") is parts.upstream("chat", "m")
    assert parts.upstream("chat", "m") is not parts.upstream("chat", "n")


def test_questions_that_name_ever_new_models_fill_no_memory() -> None:
    parts = parts_of(OPENAI_API_KEY="k")
    for number in range(3 * MOST_KEPT):
        parts.upstream("chat", f"model {number}")
    assert len(parts.upstreams._known) == MOST_KEPT


def test_what_is_shared_goes_by_the_key_and_does_not_give_it_away(redis_url: str) -> None:
    namespace = f"test-{uuid.uuid4().hex}"
    for key in ("sk-one", "sk-two"):
        parts = parts_of(OPENAI_API_KEY=key, REDIS_URL=redis_url, namespace=namespace)
        with pytest.raises(RateLimited), parts.upstream("chat", "m").call():
            raise RateLimited("Slow down.", "", {"retry_after": 30})
    keys = [key.decode() for key in parts.redis.scan_iter(f"{namespace}:pace:*")]
    assert len(keys) == 2
    assert "sk-" not in " ".join(keys)


def test_a_redis_that_hangs_holds_up_a_call_for_a_second() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        parts = parts_of(
            REDIS_URL=f"redis://127.0.0.1:{silent.getsockname()[1]}/0",
            OPENAI_API_KEY="k",
            limits={"m": [600, None]},
        )
        begun = time.monotonic()
        for _ in range(5):
            with parts.upstream("chat", "m").call():
                pass
        assert time.monotonic() - begun < 3
        parts.close()


def test_operators_see_every_service_that_is_set_and_which_is_not_called(redis_url: str) -> None:
    parts = parts_of(
        OPENAI_API_KEY="k",
        REDIS_URL=redis_url,
        namespace=f"test-{uuid.uuid4().hex}",
        rerank_url="http://127.0.0.1:9/rerank",
        limits={"gpt-6-luna": (600, None)},
    )
    with pytest.raises(RateLimited), parts.upstream("chat", "gpt-6-luna").call():
        raise RateLimited("Slow down.", "", {"retry_after": 30})
    seen = {report.kind: report for report in parts.upstreams.report()}
    assert list(seen) == ["chat", "embedding", "reranker", "store"]
    assert {kind: report.breaker for kind, report in seen.items() if report.breaker != "closed"} == {"chat": "open"}
    assert seen["chat"].limit_requests == 600
    parts.close()


def test_there_are_budgets_where_the_settings_name_some(redis_url: str, parts: Parts) -> None:
    assert parts.budget is None
    limited = parts_of(DATABASE_URL=parts.database_url, REDIS_URL=redis_url, budget_usd={"nobody": 0})
    assert limited.budget is not None
    limited.budget.check("somebody")
    with pytest.raises(BudgetSpent):
        limited.budget.check("nobody")
    limited.close()


def test_another_way_of_cutting_is_another_fingerprint() -> None:
    prints = {
        parts_of(chunk_tokens=size, chunk_overlap_tokens=overlap, parent_tokens=parent).reading.fingerprint
        for size in (100, 200)
        for overlap in (0, 20)
        for parent in (0, 1200)
    }
    assert len(prints) == 8


def test_a_worker_warms_up_though_every_service_is_down() -> None:
    """One that is down is no reason not to start: it may be up again when the first question comes."""
    parts = parts_of(DATABASE_URL="postgresql://127.0.0.1:1/x", REDIS_URL="redis://127.0.0.1:1/0")
    parts.warm_up()
    assert {"embedder", "generator", "store", "questions", "streams"} <= set(vars(parts))
    parts.close()


def test_closing_closes_what_was_built_and_builds_nothing(parts: Parts, redis_url: str) -> None:
    unused = parts_of()
    before = set(vars(unused))
    unused.close()
    assert set(vars(unused)) == before
    used = parts_of(REDIS_URL=redis_url, DATABASE_URL=parts.database_url)
    used.knowledge_bases.list("default")
    used.redis.ping()
    used.close()
    used.close()
    assert used.redis.connection_pool is not None
    assert used.engine.pool.checkedin() == 0  # type: ignore[attr-defined]


def test_work_that_takes_every_connection_costs_no_lease(parts: Parts) -> None:
    busy = parts_of(DATABASE_URL=parts.database_url, database_pool=1, heartbeat_ttl=2.0, statement_timeout=1.0)
    run_id = listed(parts, new_kb(parts), 1)
    lease = busy.batches.claim(Batch(run_id=run_id, number=0), "parse", str(uuid.uuid4()))
    assert lease is not None
    (until,) = scalars(parts, _LEASE_UNTIL, id=run_id)
    with ExitStack() as taken:
        for _ in range(2):
            taken.enter_context(busy.engine.connect())
        with pytest.raises(TimedOut):
            busy.batches.items(lease)
        with busy.leases.keeping(lease.holder):
            assert eventually(lambda: scalars(parts, _LEASE_UNTIL, id=run_id) > [until])
    busy.close()


def test_a_part_loads_its_driver_and_no_other() -> None:
    """A command that needs no model must not wait for one to load."""
    program = (
        "import sys\nfrom pipeline.settings import Settings\nfrom pipeline.wiring import Parts\n"
        "parts = Parts(Settings(DATABASE_URL='postgresql://127.0.0.1:1/x'))\n"
        "_ = parts.knowledge_bases, parts.questions, parts.reading\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "sqlalchemy" in loaded
    assert loaded.isdisjoint({"openai", "weaviate", "wordllama", "redis", "tokenizers", "docx", "pypdfium2"})
