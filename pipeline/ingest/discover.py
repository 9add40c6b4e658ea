"""Stage: find the documents that files, folders, URLs and standard input hold.

A file is one document, except JSON lines, CSV and a JSON list of objects: there each record is one.
Everything streams; what can't be read here becomes a source all the same, so that parsing reports it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import BadSettings, DocumentError, NotFound, UpstreamError
from pipeline.ingest.folders import OnIgnored, OnSkip, Walk
from pipeline.ingest.globs import Glob
from pipeline.ingest.origins import encode_path, encode_url, safe_key
from pipeline.ingest.outside import Outside, suffix_of
from pipeline.ingest.records import Record, RecordFile
from pipeline.ingest.roots import Root, root_of
from pipeline.types import RecordFields, Source

FORMATS = {
    ".txt": "text",
    ".text": "text",
    ".log": "text",
    ".rst": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
    ".docx": "docx",
    ".pptx": "pptx",
    ".xlsx": "xlsx",
    ".eml": "eml",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
}
MEDIA_TYPES = {
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "text/markdown": ".md",
    "application/pdf": ".pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "message/rfc822": ".eml",
    "application/json": ".json",
    "application/jsonl": ".jsonl",
    "application/x-jsonlines": ".jsonl",
    "application/x-ndjson": ".ndjson",
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
}
"""What a server says a file is → the suffix of such files. ``text/plain`` is said of much."""
_RECORD_FORMATS = {"jsonl": "json", "json": "json", "csv": "csv", "tsv": "csv"}
"""Kinds of files that hold records, and the format of each record."""
_SNIFFED_BYTES = 8192


def discover(
    paths: Sequence[Path | str],
    *,
    fields: RecordFields,
    max_record_bytes: int,
    on_skip: OnSkip = lambda _path, _reason: None,
    on_ignored: OnIgnored = lambda: None,
    outside: Outside | None = None,
    suffix: str = "",
    name: str = "stdin",
) -> Iterator[Source]:
    """Sources of all documents that ``paths`` name: files, folders, patterns, URLs, ``-`` for standard input.

    All ``paths`` are checked before anything is yielded: NotFound for one that isn't there, BadSettings
    for one that can't be used, or is ``-`` or a URL without an ``outside``. Each real file comes once; inside folders
    hidden files are passed over, what ``.ragignore`` names is told to ``on_ignored()``, and files of unknown kind
    to ``on_skip(path, reason)``. A record's key is its own id, so that it is updated from whatever file it comes
    next; without one it is the file's path and line. ``suffix`` (``.jsonl``) says what standard input, URLs and named
    files are, whatever they are called, and ``name`` is the key of standard input.
    """
    roots = [root_of(path) for path in paths]
    listing = _Listing(fields, max_record_bytes, on_skip, on_ignored, outside, _known(suffix), name)
    listing.check(roots)
    return listing.sources(roots)


class _Listing:
    def __init__(
        self,
        fields: RecordFields,
        max_record_bytes: int,
        on_skip: OnSkip,
        on_ignored: OnIgnored,
        outside: Outside | None,
        format_: str,
        name: str,
    ) -> None:
        self._fields = fields
        self._max_record_bytes = max_record_bytes
        self._on_skip = on_skip
        self._walk = Walk(on_skip, on_ignored)
        self._outside = outside
        self._format = format_
        self._name = name
        self._formats: dict[str, str] = {}
        self._found: dict[str, Iterator[str]] = {}

    def check(self, roots: Sequence[Root]) -> None:
        """Raise for what can be seen to be of no use."""
        if [root.kind for root in roots].count("stdin") > 1:
            raise BadSettings("Standard input can be read only once.", "Name `-` once.")
        for kind, name in roots:
            if kind == "file":
                self._formats[name] = self._format or _format_of_named(name)
            elif kind == "stdin":
                self._beyond().require_stdin()
            elif kind == "url":
                self._found[name] = self._beyond().find(name)
            elif kind == "glob" and not os.path.isdir(Glob(name).base):
                raise NotFound(f"{encode_path(Glob(name).base)} is no folder.", "Check the pattern.")

    def sources(self, roots: Sequence[Root]) -> Iterator[Source]:
        for kind, name in roots:
            if kind == "stdin":
                yield from self._of_stdin()
            elif kind == "url":
                for url in self._found[name]:
                    yield from self._of_url(url, is_named=url == name)
            elif kind == "folder":
                yield from self._of_files(self._walk.files(name))
            elif kind == "glob":
                yield from self._of_glob(name)
        for kind, name in roots:
            if kind == "file":
                yield from self._of_files(self._walk.named(name))
        yield from self._of_files(self._walk.linked())

    def _beyond(self) -> Outside:
        if self._outside is None:
            raise BadSettings("Only files and folders can be listed here.", "Name a path.")
        return self._outside

    def _of_files(self, paths: Iterator[str]) -> Iterator[Source]:
        for path in paths:
            ending = os.path.splitext(path)[1]
            format_ = self._formats.get(path) or FORMATS.get(ending.lower())
            if format_ is None:
                self._on_skip(path, f"'{ending or os.path.basename(path)}' is not a known kind of document")
            else:
                yield from self._of_content(path, _whole(path, encode_path(path), format_), path, format_)

    def _of_glob(self, pattern: str) -> Iterator[Source]:
        glob, matched = Glob(pattern), False
        for path in self._walk.files(glob.base, glob):
            matched = True
            yield from self._of_files(iter([path]))
        if not matched:
            self._on_skip(pattern, "no file matches that wasn't there already")

    def _of_stdin(self) -> Iterator[Source]:
        format_ = self._format or "text"
        path = self._beyond().spooled_stdin(is_records=format_ in _RECORD_FORMATS)
        yield from self._of_copy(self._name, f"stdin:///{encode_url(self._name)}", path, format_)

    def _of_url(self, url: str, *, is_named: bool) -> Iterator[Source]:
        """The sources of one remote file: its workers fetch it, unless it holds records."""
        try:
            format_ = self._format or self._format_of_url(url, is_named=is_named)
            if format_ is None:
                self._on_skip(url, "not a known kind of document")
                return
            if format_ in _RECORD_FORMATS:
                yield from self._of_copy(url, encode_url(url), self._beyond().spooled(url), format_)
                return
        except (DocumentError, UpstreamError, NotFound):
            # Parsing meets it again, and reports it.
            format_ = self._format or FORMATS.get(suffix_of(url), "text")
        yield _whole(url, encode_url(url), format_)

    def _format_of_url(self, url: str, *, is_named: bool) -> str | None:
        """What the server says, then what the name says; a named file that nothing is said of is plain text."""
        said = self._beyond().media_type(url) if url.startswith(("http://", "https://")) else ""
        known = FORMATS.get(MEDIA_TYPES.get(said, "")) or FORMATS.get(suffix_of(url))
        plain = is_named and (said.startswith("text/") or said in ("", "application/octet-stream"))
        return known or ("text" if plain else None)

    def _of_copy(self, key: str, origin: str, copy: Path, format_: str) -> Iterator[Source]:
        """The sources of what was copied to the spool. The copy is no origin: it goes, and is under some folder that
        may be pruned.
        """
        whole = _whole(key, origin, format_).model_copy(update={"spooled": encode_path(copy)})
        yield from self._of_content(key, whole, str(copy), format_)

    def _of_content(self, key: str, whole: Source, path: str, format_: str) -> Iterator[Source]:
        """The sources of a file that can be opened here; ``key`` names it, and begins its records' keys."""
        if format_ not in _RECORD_FORMATS:
            yield whole
            return
        found = False
        try:
            with RecordFile(Path(path), format_, self._fields.id, self._max_record_bytes) as file:
                for record in file:
                    found = True
                    yield _record_source(key, whole, record, file.columns)
        except OSError:
            found = False
        if not found:
            yield whole  # parsing tells why nothing can be read from it


def _known(suffix: str) -> str:
    if not suffix:
        return ""
    if suffix not in FORMATS:
        raise BadSettings(f"'{suffix.lstrip('.')}' is not a known format.", f"Known are {' '.join(FORMATS)}.")
    return FORMATS[suffix]


def _format_of_named(path: str) -> str:
    """The format of a file that the caller named; raises BadSettings for one that is no document."""
    known = FORMATS.get(os.path.splitext(path)[1].lower())
    if known is None and not _looks_like_text(path):
        hint = f"Known are {' '.join(FORMATS)}, and other files of plain text."
        raise BadSettings(f"{encode_path(path)} is not a known kind of document.", hint)
    return known or "text"


def _looks_like_text(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(_SNIFFED_BYTES)
    except OSError:
        return True  # parsing tells why it can't be read
    if b"\0" in head:
        return head.startswith((b"\xff\xfe", b"\xfe\xff"))
    controls = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head)
    return controls * 20 <= len(head)


def _whole(key: str, origin: str, format_: str) -> Source:
    return Source(key=safe_key(key), origin=origin, format=_RECORD_FORMATS.get(format_, format_))


def _record_source(key: str, whole: Source, record: Record, columns: tuple[str, ...]) -> Source:
    return Source(
        key=safe_key(record.id or f"{key}#{record.place}"),
        origin=whole.origin,
        spooled=whole.spooled,
        format=whole.format,
        offset=record.offset,
        length=record.length,
        columns=columns,
    )
