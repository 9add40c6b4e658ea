"""What models cost: USD per million input and output tokens.

The figures are list prices for standard requests, gathered in November 2026 from public price lists and release notes,
not from OpenAI's own page: check those you bill by. They leave out discounts
(cached input, batches) and surcharges (prompts above 272,000 tokens), so a bill may differ. ``CELERIAC_PRICES``
adds models and overrides figures: ``{"gpt-6-luna": [0.10, 0.50]}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.types import USD_DIGITS

Price = tuple[float, float]

PRICES: Mapping[str, Price] = {
    "text-embedding-3-small": (0.02, 0.0),
    "text-embedding-3-large": (0.13, 0.0),
    "text-embedding-ada-002": (0.10, 0.0),
    "gpt-6-astra": (10.0, 50.0),
    "gpt-6.1-sol": (2.0, 10.0),
    "gpt-6.1-terra": (1.0, 5.0),
    "gpt-6-sol": (2.0, 10.0),
    "gpt-6-luna": (0.10, 0.50),
    "gpt-5.6": (4.0, 20.0),
    "gpt-5.6-sol": (4.0, 20.0),
    "gpt-5.6-terra": (2.0, 12.0),
    "gpt-5.6-luna": (0.20, 1.20),
    "gpt-5.5": (5.0, 30.0),
    "gpt-5.4": (2.5, 15.0),
    "gpt-5.4-mini": (0.75, 4.5),
    "gpt-5.4-nano": (0.20, 1.25),
    "gpt-5.2": (1.75, 14.0),
    "gpt-5.1": (1.25, 10.0),
    "gpt-5": (1.25, 10.0),
    "gpt-5-mini": (0.25, 2.0),
    "gpt-5-nano": (0.05, 0.40),
    "gpt-4.1": (2.0, 8.0),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1-nano": (0.10, 0.40),
    "gpt-4o": (2.5, 10.0),
    "gpt-4o-mini": (0.15, 0.60),
    "o3": (2.0, 8.0),
    "o3-mini": (1.10, 4.40),
    "o4-mini": (1.10, 4.40),
}

_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def cost(model: str, input_tokens: int, output_tokens: int, overrides: Mapping[str, Price]) -> float | None:
    """USD for so many tokens, or None where the price is unknown.

    A dated snapshot (``gpt-5-mini-2025-08-07``) costs what its family does, unless it has a price of its own.
    """
    price = _price(model, overrides)
    if price is None:
        return None
    return round((input_tokens * price[0] + output_tokens * price[1]) / 1_000_000, USD_DIGITS)


def _price(model: str, overrides: Mapping[str, Price]) -> Price | None:
    family = _SNAPSHOT.sub("", model)
    for name in (model, family):
        if name in overrides:
            return overrides[name]
    return PRICES.get(model) or PRICES.get(family)
