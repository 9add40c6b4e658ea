"""Patterns of paths: ``*``, ``?`` and ``[…]`` within a name, ``**`` for any number of folders."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence

_MAGIC = frozenset("*?[")


def is_glob(path: str) -> bool:
    """Whether ``path`` is a pattern: it looks like one, and nothing has that very name."""
    return not _MAGIC.isdisjoint(path) and not os.path.lexists(path)


class Glob:
    """One pattern, taken apart into the folder to start from and what must lie below it."""

    def __init__(self, pattern: str) -> None:
        """``pattern`` may be relative to the current folder."""
        parts = [part for part in os.path.abspath(pattern).split("/") if part]
        first = next(place for place, part in enumerate(parts) if not _MAGIC.isdisjoint(part))
        self.base = "/" + "/".join(parts[:first])
        self._parts = tuple(parts[first:])

    def matches(self, path: str) -> bool:
        """Whether the file ``path``, below the base, is meant."""
        return _matches(self._below(path), self._parts)

    def may_hold(self, folder: str) -> bool:
        """Whether anything below ``folder``, below the base, can be meant."""
        return _may_hold(self._below(folder), self._parts)

    def _below(self, path: str) -> Sequence[str]:
        return path[len(self.base) :].strip("/").split("/")


def _matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        # At the end it stands for files of any depth, elsewhere for folders.
        rest = pattern[1:] or ("*",)
        return any(_matches(names[skipped:], rest) for skipped in range(len(names)))
    return bool(names) and fnmatch.fnmatchcase(names[0], pattern[0]) and _matches(names[1:], pattern[1:])


def _may_hold(names: Sequence[str], pattern: Sequence[str]) -> bool:
    if not names:
        return bool(pattern)
    if not pattern:
        return False
    return pattern[0] == "**" or (fnmatch.fnmatchcase(names[0], pattern[0]) and _may_hold(names[1:], pattern[1:]))
