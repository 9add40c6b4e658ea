"""What calls cost that came to no end."""

from __future__ import annotations

import threading

from pipeline import losses
from pipeline.types import Usage


def test_what_is_lost_inside_is_added_up_and_what_is_lost_elsewhere_is_not() -> None:
    with losses.counted() as lost:
        losses.current().add(Usage(model="m", input_tokens=5, estimated_tokens=5, cost_usd=0.25))
        with losses.counted() as inner:
            losses.current().add(Usage(input_tokens=100))
        other = threading.Thread(target=lambda: losses.current().add(Usage(input_tokens=1000)))
        other.start()
        other.join()
        losses.current().add(Usage(output_tokens=2, cost_usd=0.5))
    losses.current().add(Usage(input_tokens=10_000))
    assert lost.usage == Usage(model="m", input_tokens=5, output_tokens=2, estimated_tokens=5, cost_usd=0.75)
    assert inner.usage.input_tokens == 100


def test_an_unknown_price_makes_the_sum_unknown() -> None:
    with losses.counted() as lost:
        losses.current().add(losses.estimate("nobody-knows", 10, 0, {}))
    assert (lost.usage.input_tokens, lost.usage.cost_usd) == (3, None)


def test_sizes_are_turned_into_tokens_and_money() -> None:
    found = losses.estimate("m", 4001, 400, {"m": (1.0, 10.0)})
    assert found == Usage(model="m", input_tokens=1001, output_tokens=100, estimated_tokens=1101, cost_usd=0.002001)
