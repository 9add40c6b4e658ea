"""Budgets over a real Redis and the real rows of questions."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import redis

from deploy.local.redis import free_port
from pipeline.adapters.postgres.spending import Spending
from pipeline.adapters.redis_budget import RedisSpendingCounter
from pipeline.adapters.redis_stream import make_client
from pipeline.ask.guard import guard
from pipeline.ask.question import new_question
from pipeline.ask.record import record
from pipeline.budget import Budget, SpendingCounter, Spent
from pipeline.errors import BudgetSpent
from pipeline.types import Answer, AskState, Usage
from pipeline.wiring import Parts
from tests.installation import execute, new_kb

COST = 0.25
USED = Usage(model="m", input_tokens=70, output_tokens=20, embedding_tokens=10, cost_usd=COST)
TOKENS = 100


@pytest.fixture(scope="module")
def client(redis_url: str) -> Iterator[redis.Redis]:
    client = make_client(redis_url, connections=10, connect_timeout=5)
    yield client
    client.close()
    client.connection_pool.disconnect()


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def counter(client: redis.Redis, namespace: str) -> RedisSpendingCounter:
    return RedisSpendingCounter(client, namespace=namespace)


@pytest.fixture
def tenant() -> str:
    return f"tenant-{uuid.uuid4().hex}"


def budget_of(
    parts: Parts,
    counter: SpendingCounter | None,
    *,
    usd: dict[str, float] | None = None,
    tokens: dict[str, int] | None = None,
    days: int = 0,
) -> Budget:
    """As it is so many days from now."""
    clock = lambda: datetime.now(UTC) + timedelta(days=days)  # noqa: E731
    return Budget(usd or {}, tokens or {}, Spending(parts.engine), counter, clock)


def ask(parts: Parts, tenant: str, budget: Budget | None) -> AskState:
    """A question that passed the guard, in a knowledge base that claims to hold something."""
    kb = new_kb(parts, tenant=tenant)
    execute(parts, "UPDATE knowledge_bases SET chunk_count = 1 WHERE id = :id", id=kb.id)
    question = new_question("What is it?", parts.settings, tenant=tenant, kb=kb.name)
    parts.questions.submit(question)
    state = AskState(question=question)
    return guard(state, knowledge_bases=parts.knowledge_bases, settings=parts.settings, budget=budget)


def answered(parts: Parts, tenant: str, budget: Budget | None) -> AskState:
    state = ask(parts, tenant, budget)
    answer = Answer(question_id=state.question.id, outcome="answered", mode="generated", text="It.", usage=USED)
    state = state.but(answer=answer)
    record(state, questions=parts.questions, budget=budget)
    return state


def test_questions_are_taken_until_the_money_is_spent(parts: Parts, counter: RedisSpendingCounter, tenant: str) -> None:
    budget = budget_of(parts, counter, usd={tenant: 2 * COST})
    answered(parts, tenant, budget)
    answered(parts, tenant, budget)
    with pytest.raises(BudgetSpent) as caught:
        ask(parts, tenant, budget)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    assert "0.50 USD" in caught.value.message
    assert f"{tomorrow:%Y-%m-%d} 00:00 UTC" in caught.value.hint
    assert caught.value.detail == {"opens_at": tomorrow.timestamp()}
    assert (caught.value.retryable, caught.value.exit_status) == (False, 1)


def test_or_until_the_tokens_are(parts: Parts, counter: RedisSpendingCounter, tenant: str) -> None:
    budget = budget_of(parts, counter, usd={"*": 100.0}, tokens={"*": TOKENS})
    answered(parts, tenant, budget)
    with pytest.raises(BudgetSpent, match="100 tokens"):
        ask(parts, tenant, budget)


def test_each_tenant_has_its_own(parts: Parts, counter: RedisSpendingCounter, tenant: str) -> None:
    budget = budget_of(parts, counter, usd={"*": COST, "rich": 100.0})
    answered(parts, tenant, budget)
    ask(parts, f"other-{tenant}", budget)
    for _ in range(2):
        answered(parts, "rich", budget)
    ask(parts, "rich", budget)


def test_who_has_none_is_not_counted(
    parts: Parts, counter: RedisSpendingCounter, tenant: str, client: redis.Redis, namespace: str
) -> None:
    budget = budget_of(parts, counter, usd={"another": 0.0})
    answered(parts, tenant, budget)
    assert client.keys(f"{namespace}:*") == []


def test_a_budget_of_nothing_takes_no_question(parts: Parts, counter: RedisSpendingCounter, tenant: str) -> None:
    with pytest.raises(BudgetSpent):
        ask(parts, tenant, budget_of(parts, counter, tokens={tenant: 0}))


def test_the_next_day_begins_anew(parts: Parts, counter: RedisSpendingCounter, tenant: str) -> None:
    answered(parts, tenant, budget_of(parts, counter, usd={tenant: COST}))
    ask(parts, tenant, budget_of(parts, counter, usd={tenant: COST}, days=1))


def test_an_answer_that_is_recorded_twice_is_paid_once(
    parts: Parts, counter: RedisSpendingCounter, tenant: str
) -> None:
    budget = budget_of(parts, counter, usd={tenant: 2 * COST})
    state = answered(parts, tenant, budget)
    record(state, questions=parts.questions, budget=budget)
    ask(parts, tenant, budget)


def test_what_redis_forgot_is_added_up_from_the_rows(
    parts: Parts, counter: RedisSpendingCounter, tenant: str, client: redis.Redis, namespace: str
) -> None:
    budget = budget_of(parts, counter, usd={tenant: 3 * COST})
    for _ in range(2):
        answered(parts, tenant, budget)
    for key in client.keys(f"{namespace}:*"):  # type: ignore[union-attr]
        client.delete(key)
    answered(parts, tenant, budget)
    with pytest.raises(BudgetSpent):
        ask(parts, tenant, budget)


def test_what_was_counted_while_rows_were_added_up_is_kept(counter: RedisSpendingCounter, tenant: str) -> None:
    day = datetime.now(UTC)
    counter.remember(tenant, day, Spent(1.0, 10))
    counter.add(tenant, day, Spent(0.5, 5))
    counter.remember(tenant, day, Spent(1.0, 10))
    assert counter.spent(tenant, day) == Spent(1.5, 15)


def test_what_ingest_spends_counts_too_also_as_the_first_of_the_day(
    parts: Parts, counter: RedisSpendingCounter, tenant: str
) -> None:
    answered(parts, tenant, None)
    budget = budget_of(parts, counter, tokens={tenant: 3 * TOKENS})
    budget.spend(tenant, None, TOKENS, on_record=False)
    ask(parts, tenant, budget)
    budget.spend(tenant, None, TOKENS, on_record=False)
    with pytest.raises(BudgetSpent):
        ask(parts, tenant, budget)


def test_what_was_not_counted_while_redis_was_away_is_made_up_for(
    parts: Parts, counter: RedisSpendingCounter, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = budget_of(parts, counter, usd={tenant: 2 * COST})
    answered(parts, tenant, budget)
    ask(parts, tenant, budget)
    with monkeypatch.context() as away:
        away.setattr(counter, "add", lambda *_: False)
        answered(parts, tenant, budget)
    with pytest.raises(BudgetSpent):
        ask(parts, tenant, budget)
    with pytest.raises(BudgetSpent):
        ask(parts, tenant, budget_of(parts, counter, usd={tenant: 2 * COST}))


@pytest.mark.parametrize("how", ["no redis is set", "redis is down"])
def test_without_redis_the_rows_are_asked(how: str, parts: Parts, tenant: str) -> None:
    with make_client(f"redis://127.0.0.1:{free_port()}/0", connections=2, connect_timeout=1) as gone:
        counter = RedisSpendingCounter(gone, namespace="n") if how == "redis is down" else None
        budget = budget_of(parts, counter, usd={tenant: COST})
        answered(parts, tenant, budget)
        with pytest.raises(BudgetSpent):
            ask(parts, tenant, budget)


def test_it_is_forgotten_some_days_later(
    counter: RedisSpendingCounter, tenant: str, client: redis.Redis, namespace: str
) -> None:
    counter.remember(tenant, datetime.now(UTC), Spent(1.0, 10))
    (key,) = client.keys(f"{namespace}:*")  # type: ignore[misc]
    assert 86_400 < client.ttl(key) <= 3 * 86_400  # type: ignore[operator]
