"""A token bucket, as rate limits of model services work: a steady refill with a bounded burst."""

from __future__ import annotations

import time


class Bucket:
    """Lets ``per_minute`` units through per minute, at most ``burst_seconds`` worth of them at once."""

    def __init__(self, per_minute: float, burst_seconds: float) -> None:
        """Starts full."""
        self.per_minute = per_minute
        self.rate = per_minute / 60.0
        self.capacity = max(1.0, self.rate * burst_seconds)
        self.level = self.capacity
        self.refilled = time.monotonic()

    def take(self, units: float) -> float:
        """Take ``units`` and return 0, or take nothing and return the seconds until they would be there."""
        self._refill()
        if self.level >= min(units, self.capacity):
            self.level -= units
            return 0.0
        return (min(units, self.capacity) - self.level) / self.rate

    def headers(self, name: str) -> dict[str, str]:
        """The x-ratelimit headers for this limit."""
        full_in = max(0.0, (self.capacity - self.level) / self.rate)
        return {
            f"x-ratelimit-limit-{name}": f"{self.per_minute:.0f}",
            f"x-ratelimit-remaining-{name}": f"{max(0.0, self.level):.0f}",
            f"x-ratelimit-reset-{name}": f"{full_in:.3f}s",
        }

    def _refill(self) -> None:
        now = time.monotonic()
        self.level = min(self.capacity, self.level + (now - self.refilled) * self.rate)
        self.refilled = now
