"""What calls cost that came to no end: cancelled, timed out, given up, broken off.

A service bills the prompt and what its model wrote until the connection was closed, but says how many tokens that were
only at the end of a stream. So whoever makes such a call tells what it knows or reckons here, and whoever tries a stage
adds it to what the question has cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from pipeline.prices import Price, cost
from pipeline.types import Usage

BYTES_PER_TOKEN = 4
"""Of UTF-8, about: OpenAI's rule of thumb for English, and near enough for languages of two bytes a letter."""


class Losses:
    """Those of one attempt."""

    def __init__(self) -> None:
        """None so far."""
        self.usage = Usage(cost_usd=0.0)

    def add(self, usage: Usage) -> None:
        """One more call that gave nothing."""
        self.usage = self.usage.plus(usage)


@contextmanager
def counted() -> Iterator[Losses]:
    """Calls made inside, by this thread or greenlet, tell what they lost to what ``with`` gives."""
    losses = Losses()
    token = _losses.set(losses)
    try:
        yield losses
    finally:
        _losses.reset(token)


def current() -> Losses:
    """Where to tell it; what is told where nobody counts is forgotten."""
    return _losses.get() or Losses()


def estimate(model: str, prompt_bytes: int, written_bytes: int, prices: Mapping[str, Price]) -> Usage:
    """What a call cost of which only the sizes are known, by ``BYTES_PER_TOKEN``. What a model thought without writing
    it is not in there: nobody heard of it.
    """
    given, written = -(-prompt_bytes // BYTES_PER_TOKEN), -(-written_bytes // BYTES_PER_TOKEN)
    return Usage(
        model=model,
        input_tokens=given,
        output_tokens=written,
        estimated_tokens=given + written,
        cost_usd=cost(model, given, written, prices),
    )


_losses: ContextVar[Losses | None] = ContextVar("losses", default=None)
