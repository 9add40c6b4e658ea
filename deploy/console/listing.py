"""What an ingest is given: how its sources are listed, and what may be pruned for not being among them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deploy.console.output import note
from pipeline.errors import BadSettings, NotFound, UnreadableSource
from pipeline.ingest.discover import discover
from pipeline.ingest.origins import encode_path
from pipeline.ingest.outside import Outside
from pipeline.ingest.roots import root_of
from pipeline.ingest.spool import Spool
from pipeline.types import RecordFields, Source
from pipeline.wiring import Parts


class Listed:
    """Hears what becomes no source."""

    def __init__(self, *, prune: bool, quiet: bool) -> None:
        """With ``prune`` a folder that can't be read ends the listing."""
        self._prune = prune
        self._quiet = quiet
        self._skipped = 0
        self._ignored = 0

    @property
    def counts(self) -> dict[str, int]:
        """How many were skipped, and how many were ignored by rule."""
        return {"skipped": self._skipped, "ignored": self._ignored}

    def skip(self, path: str, reason: str) -> None:
        """A path that was passed over, told as it comes."""
        shown = encode_path(path)
        if self._prune and _is_folder(path):
            hint = "Make it readable, or ingest without --prune: its documents would count as vanished."
            raise UnreadableSource(f"{shown}: {reason}.", hint)
        self._skipped += 1
        if not self._quiet:
            note(f"skipped {shown}: {reason}")

    def ignore(self) -> None:
        """A file or folder that a .ragignore names: only counted."""
        self._ignored += 1

    def note_ignored(self) -> None:
        """Say how many those were."""
        if self._ignored and not self._quiet:
            note(f"{self._ignored:,} files and folders ignored by .ragignore")


@dataclass(frozen=True)
class Sources:
    """The arguments of an ingest. ``suffix`` says what standard input, URLs and named files are, ``name`` is the key of
    standard input.
    """

    given: Sequence[Path | str]
    suffix: str = ""
    name: str = "stdin"
    missing: tuple[str, ...] = ()
    """Paths that aren't there, and are to be pruned under."""

    @property
    def roots(self) -> tuple[str, ...]:
        """The paths and URLs given, as the sources' origins spell them."""
        return (*(encode_path(root_of(argument).name) for argument in self.given), *self.missing)

    def discover(self, parts: Parts, fields: RecordFields, listed: Listed) -> Iterator[Source]:
        """The sources of their documents; see :func:`pipeline.ingest.discover.discover`."""
        return discover(
            self.given,
            fields=fields,
            max_record_bytes=parts.settings.max_record_bytes,
            on_skip=listed.skip,
            on_ignored=listed.ignore,
            outside=_outside(parts),
            suffix=self.suffix,
            name=self.name,
        )


def require_prunable(parts: Parts, tenant: str, kb: str, given: Sources, *, sure: bool) -> Sources:
    """What to list for a run that prunes. An empty or missing root may be a disk that isn't mounted: raises BadSettings
    for it, with how many documents would go, unless the caller is ``sure``.
    """
    missing: list[str] = []
    there: list[Path | str] = []
    for argument in given.given:
        try:
            kind, path = root_of(argument)
        except NotFound:
            missing.append(encode_path(os.path.abspath(argument)))
            continue
        if kind not in ("folder", "file"):
            raise BadSettings(f"--prune works under folders and files, not under {argument}.", "Ingest it by itself.")
        if kind == "folder" and _is_empty(path) and not sure:
            _require_sure_at(parts, tenant, kb, encode_path(path), "empty")
        there.append(argument)
    if missing and not sure:
        _require_sure_at(parts, tenant, kb, missing[0], "missing")
    return replace(given, given=there, missing=tuple(missing))


def _require_sure_at(parts: Parts, tenant: str, kb: str, root: str, how: str) -> None:
    found = parts.knowledge_bases.find(tenant, kb)
    require_sure(parts, found.id, [root], f"{root} is {how}")


def require_sure(parts: Parts, kb_id: str, roots: Sequence[str], what: str) -> None:
    """Refuse to prune all that came from under ``roots``."""
    count = parts.passages.count_under(kb_id, roots)
    hint = "Is its disk mounted? If it is meant, say --yes."
    raise BadSettings(f"{what}: --prune would remove {count:,} documents.", hint)


def _outside(parts: Parts) -> Outside:
    settings = parts.settings
    return Outside(
        remotes=parts.remotes,
        spool=Spool(settings.home / "spool", settings.spool_ttl),
        stdin=sys.stdin.buffer,
        max_source_bytes=settings.max_source_bytes,
        max_download_bytes=settings.max_download_bytes,
        fetch_timeout=settings.fetch_timeout,
        download_timeout=settings.download_timeout,
    )


def _is_empty(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False  # listing tells what is wrong with it


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:
        return True  # not even that can be seen: it may be one
