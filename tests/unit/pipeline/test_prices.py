from __future__ import annotations

import pytest

from pipeline.prices import PRICES, cost
from pipeline.types import Usage


def test_a_million_tokens_each_way_cost_the_sum_of_both_prices() -> None:
    given, written = PRICES["gpt-5-mini"]

    assert cost("gpt-5-mini", 1_000_000, 1_000_000, {}) == pytest.approx(given + written)


@pytest.mark.parametrize("family", ["gpt-5", "gpt-5-mini", "gpt-4o", "gpt-4o-mini", "o3"])
def test_a_dated_snapshot_costs_what_its_own_family_does(family: str) -> None:
    """The longest name counts: gpt-5-mini-2025-08-07 is no gpt-5."""
    assert cost(f"{family}-2025-08-07", 1000, 1000, {}) == cost(family, 1000, 1000, {})


@pytest.mark.parametrize("name", ["gpt-5-super", "llama-3.3-70b", "", "gpt-5-mini-latest"])
def test_the_price_of_an_unknown_model_is_unknown_and_not_zero(name: str) -> None:
    assert cost(name, 1000, 1000, {}) is None


def test_an_override_wins_and_adds_models() -> None:
    overrides = {"gpt-5-mini": (1.0, 2.0), "my-model": (3.0, 4.0)}

    assert cost("gpt-5-mini", 1_000_000, 0, overrides) == 1.0
    assert cost("gpt-5-mini-2025-08-07", 0, 1_000_000, overrides) == 2.0
    assert cost("my-model", 1_000_000, 1_000_000, overrides) == 7.0


def test_a_snapshot_may_have_a_price_of_its_own() -> None:
    overrides = {"gpt-4o-2024-05-13": (5.0, 15.0)}

    assert cost("gpt-4o-2024-05-13", 1_000_000, 0, overrides) == 5.0
    assert cost("gpt-4o", 1_000_000, 0, overrides) == PRICES["gpt-4o"][0]


@pytest.mark.parametrize(("given", "written"), [(463, 32), (459, 41), (1, 0), (123_457, 7)])
def test_a_cost_is_the_same_number_before_and_after_it_was_on_record(given: int, written: int) -> None:
    """The row keeps ``numeric(14, 8)``; 463 tokens in and 32 out were 6.230000000000001e-05 in memory once."""
    used = cost("gpt-6-luna", given, written, {})

    assert used is not None
    assert used == float(f"{used:.8f}")
    total = Usage(cost_usd=used).plus(Usage(cost_usd=0.00000123)).cost_usd
    assert total == float(f"{total:.8f}")


def test_embeddings_cost_nothing_for_output() -> None:
    embedders = [price for name, price in PRICES.items() if name.startswith("text-embedding")]

    assert len(embedders) == 3
    assert all(written == 0.0 for _, written in embedders)
