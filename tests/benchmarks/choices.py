"""Options of the benchmarks that take several values."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def choices(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Reads ``a,b``, of what is known."""

    def parse(value: str) -> tuple[str, ...]:
        chosen = tuple(value.split(","))
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))} is none of {', '.join(known)}")
        return chosen

    return parse


def numbers(value: str) -> tuple[int, ...]:
    """Reads ``1,2``."""
    return tuple(int(number) for number in value.split(","))
