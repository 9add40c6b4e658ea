"""Which request gets which fault."""

from __future__ import annotations

import random
import time

from tests.standin.config import Config, Endpoint, Fault
from tests.standin.limiter import Bucket


class Faults:
    """The faults of one configuration, used up as requests come; deterministic for a seed."""

    def __init__(self, config: Config, seed: int) -> None:
        """Windows of time start with the first request that could be hit by one."""
        self._random = random.Random(seed)
        self._left = [(fault, fault.count) for fault in config.faults]
        self._due = [0.0] * len(config.faults)
        self._started: float | None = None
        self._config = config
        self._limits: dict[str, dict[str, Bucket]] = {}

    def draw(self, endpoint: Endpoint) -> Fault | None:
        """The first fault that hits this request."""
        if self._started is None and any(fault.endpoint in (None, endpoint) for fault, _ in self._left):
            self._started = time.monotonic()
        for number, (fault, left) in enumerate(self._left):
            if not self._applies(fault, endpoint, left) or not self._strikes(number, fault):
                continue
            self._left[number] = (fault, None if left is None else left - 1)
            return fault
        return None

    def wait(self, model: str, tokens: int) -> float:
        """Seconds to wait before this request fits the limits of its model; 0 where it does, and then it is counted."""
        buckets = self._limits_of(model)
        return max((bucket.take(1 if name == "requests" else tokens) for name, bucket in buckets.items()), default=0.0)

    def headers(self, model: str) -> dict[str, str]:
        """The x-ratelimit headers of all limits of a model."""
        found: dict[str, str] = {}
        for name, bucket in self._limits_of(model).items():
            found |= bucket.headers(name)
        return found

    def _limits_of(self, model: str) -> dict[str, Bucket]:
        """Each model has its own, as with the services that this stands for."""
        if model not in self._limits:
            limits = {"requests": self._config.requests_per_minute, "tokens": self._config.tokens_per_minute}
            self._limits[model] = {
                name: Bucket(per_minute, self._config.burst_seconds)
                for name, per_minute in limits.items()
                if per_minute is not None
            }
        return self._limits[model]

    def _applies(self, fault: Fault, endpoint: Endpoint, left: int | None) -> bool:
        if fault.endpoint not in (None, endpoint) or left == 0:
            return False
        since = time.monotonic() - (self._started or 0.0) - fault.after
        return since >= 0 and (fault.seconds is None or since <= fault.seconds)

    def _strikes(self, number: int, fault: Fault) -> bool:
        if not fault.evenly:
            return fault.probability >= 1.0 or self._random.random() < fault.probability
        self._due[number] += fault.probability
        # Nearly 1 is 1: ten times 0.1 is less.
        if self._due[number] < 1 - 1e-9:
            return False
        self._due[number] -= 1
        return True
