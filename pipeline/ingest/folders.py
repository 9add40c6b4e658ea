"""The files in folders, streamed: memory grows with the number of folders, not with that of files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from pipeline.ingest.globs import Glob
from pipeline.ingest.ignoring import Rules, rules_of

IGNORED_FOLDERS = frozenset({"__pycache__", "node_modules"})
_SORTED_ENTRIES = 10_000
"""Entries of a folder that are put in the order of their names before the next ones are read."""

OnSkip = Callable[[str, str], None]
OnIgnored = Callable[[], None]
Inode = tuple[int, int]


@dataclass(frozen=True)
class Visited:
    """A folder that was walked through: as which path, by which rules, and for which pattern."""

    path: str
    rules: Rules | None
    glob: Glob | None

    def takes(self, name: str) -> bool:
        """Whether its file ``name`` came out of the walk."""
        path = f"{self.path.rstrip('/')}/{name}"
        if name.startswith(".") or (self.rules is not None and self.rules.ignores(path)):
            return False
        return self.glob is None or self.glob.matches(path)


class Walk:
    """Walks through folders and names files, each real one once by whatever names and links it is reached.

    A link to a file, and a file that is named, come last: by then it is known which folders were walked through, so
    that not every file has to be remembered for the sake of a few links.
    """

    def __init__(self, on_skip: OnSkip, on_ignored: OnIgnored) -> None:
        """``on_skip(path, reason)`` hears what can't be taken, ``on_ignored()`` is called for what rules keep out."""
        self._on_skip = on_skip
        self._on_ignored = on_ignored
        self._visited: dict[Inode, list[Visited]] = {}
        self._seen: set[Inode] = set()
        self._links: list[str] = []
        self._some_by_pattern = False

    def files(self, root: str, glob: Glob | None = None) -> Iterator[str]:
        """Regular files below ``root``, but not links to files: see :meth:`linked`."""
        pending: list[tuple[str, Rules | None]] = [(root, None)]
        self._some_by_pattern |= glob is not None
        while pending:
            folder, above = pending.pop()
            try:
                visit = self._enter(folder, above, glob)
                below: list[str] = []
                if visit is not None:
                    yield from self._entries(visit, below)
                    pending += [(path, visit.rules) for path in sorted(below, reverse=True)]
            except OSError as error:
                self._on_skip(folder, error.strerror or "cannot be read")

    def named(self, path: str) -> Iterator[str]:
        """The file ``path``, unless it was there before."""
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                self._on_skip(path, "not a regular file")
            elif self._is_new(path, (status.st_dev, status.st_ino)):
                yield path
        except OSError as error:
            self._on_skip(path, error.strerror or "cannot be read")

    def linked(self) -> Iterator[str]:
        """Files that only links in the folders lead to; to be called last."""
        for path in self._links:
            yield from self.named(path)

    def _enter(self, folder: str, above: Rules | None, glob: Glob | None) -> Visited | None:
        """Note a folder as visited; None where it was before."""
        status = os.stat(folder)
        visits = self._visited.setdefault((status.st_dev, status.st_ino), [])
        if any(visit.glob is glob or visit.glob is None for visit in visits):
            return None
        visits.append(Visited(folder, rules_of(folder, above), glob))
        return visits[-1]

    def _entries(self, folder: Visited, below: list[str]) -> Iterator[str]:
        """The files of one folder, and its folders in ``below``."""
        with os.scandir(folder.path) as entries:
            while block := sorted(islice(entries, _SORTED_ENTRIES), key=lambda entry: entry.name):
                for entry in block:
                    if not entry.name.startswith(".") and entry.name not in IGNORED_FOLDERS:
                        yield from self._entry(entry, folder, below)

    def _entry(self, entry: os.DirEntry[str], folder: Visited, below: list[str]) -> Iterator[str]:
        try:
            is_folder = entry.is_dir()
            if folder.glob is not None and not (
                folder.glob.may_hold(entry.path) if is_folder else folder.glob.matches(entry.path)
            ):
                return
            if folder.rules is not None and folder.rules.ignores(f"{entry.path}/" if is_folder else entry.path):
                self._on_ignored()
            elif is_folder:
                below.append(entry.path)
            elif entry.is_symlink():
                self._links.append(entry.path)
            elif not entry.is_file(follow_symlinks=False):
                self._on_skip(entry.path, "not a regular file")
            elif self._is_only_name(entry):
                yield entry.path
        except OSError as error:
            self._on_skip(entry.path, error.strerror or "cannot be read")

    def _is_only_name(self, entry: os.DirEntry[str]) -> bool:
        """Whether the file has not come by another name: only one with hard links, or of a pattern, can have."""
        status = entry.stat(follow_symlinks=False)
        if status.st_nlink == 1 and not self._some_by_pattern:
            return True
        return self._is_first((status.st_dev, status.st_ino))

    def _is_new(self, path: str, inode: Inode) -> bool:
        """Whether a file that was named, or linked to, is not one that a walk has given already."""
        parent, name = os.path.split(os.path.realpath(path))
        status = os.stat(parent)
        visits = self._visited.get((status.st_dev, status.st_ino), [])
        return not any(visit.takes(name) for visit in visits) and self._is_first(inode)

    def _is_first(self, inode: Inode) -> bool:
        if inode in self._seen:
            return False
        self._seen.add(inode)
        return True
