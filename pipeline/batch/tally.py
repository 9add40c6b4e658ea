"""What a batch came to: counts, tokens, money, times, and failures by their cause."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any

import numpy as np

from pipeline.batch.result import Result
from pipeline.types import Usage


class Tally:
    """Adds up results. Holds 8 bytes for each, for the percentiles."""

    def __init__(self) -> None:
        """Nothing is added yet."""
        self.answered = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.embedding_tokens = 0
        self.cost_usd = 0.0
        self.unpriced = 0
        """Questions whose price nobody knows; their cost is missing in ``cost_usd``."""
        self.outcomes: Counter[str] = Counter()
        self.modes: Counter[str] = Counter()
        self.degraded: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        """By the code of the error."""
        self._seconds = array("d")

    @property
    def failed(self) -> int:
        """How many failed."""
        return self.failures.total()

    @property
    def over(self) -> int:
        """How many have reached an end."""
        return self.answered + self.failed

    @property
    def tokens(self) -> int:
        """All tokens that were paid for."""
        return self.input_tokens + self.output_tokens + self.embedding_tokens

    @property
    def mean_cost_usd(self) -> float:
        """What one answer costs, as far as prices are known, and with it what failed on the way to it."""
        return self.cost_usd / self.answered if self.answered else 0.0

    def leaves_room(self, budget_usd: float, under_way: int) -> bool:
        """Whether the budget bears one more, if it and those under way cost what the others did on average. Before
        there are any, nobody knows what that is.
        """
        if not self.answered:
            return self.cost_usd < budget_usd
        # Costs have eight decimal places; what adding them up puts behind those is no reason to stop.
        return round(self.cost_usd + (under_way + 1) * self.mean_cost_usd, 8) <= budget_usd

    def add(self, result: Result) -> None:
        """Count one more result."""
        if result.answer is None:
            self.failures[str((result.error or {}).get("code", ""))] += 1
            if result.usage is not None and result.usage.tokens:
                self._pay(result.usage)
            return
        answer = result.answer
        self.answered += 1
        self.outcomes[answer.outcome] += 1
        self.modes[answer.mode] += 1
        self.degraded.update(loss.mode for loss in answer.degraded)
        self._seconds.append(result.seconds or 0.0)
        self._pay(answer.usage)

    def percentile(self, percent: float) -> float | None:
        """Seconds within which so many in a hundred answers were there; None without any."""
        return float(np.percentile(np.array(self._seconds), percent)) if self._seconds else None

    def to_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "answered": self.answered,
            "failed": self.failed,
            "failures": dict(self.failures.most_common()),
            "outcomes": dict(self.outcomes),
            "modes": dict(self.modes),
            "degraded": dict(self.degraded),
            "seconds_p50": self.percentile(50),
            "seconds_p95": self.percentile(95),
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "embedding_tokens": self.embedding_tokens,
            "cost_usd": round(self.cost_usd, 8),
            "unpriced": self.unpriced,
        }

    def _pay(self, usage: Usage) -> None:
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.embedding_tokens += usage.embedding_tokens
        self.cost_usd += usage.cost_usd or 0.0
        self.unpriced += usage.cost_usd is None
