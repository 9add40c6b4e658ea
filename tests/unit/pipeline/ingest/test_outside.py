"""Sources from outside: standard input, URLs, buckets, patterns; what is listed, and read again by a worker."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.adapters.bucket_files import BucketFiles
from pipeline.adapters.http_files import HttpFiles
from pipeline.errors import BadSettings, NotFound, ServerFault, UnreadableSource
from pipeline.ingest.discover import discover
from pipeline.ingest.outside import Outside, suffix_of
from pipeline.ingest.reading import read_source
from pipeline.ingest.roots import root_of
from pipeline.ingest.spool import Spool
from pipeline.seams import RemoteFiles
from pipeline.types import RecordFields, Source
from tests.web_server import WebServer, answer, web_server


@pytest.fixture(scope="module")
def remotes() -> dict[str, RemoteFiles]:
    http = HttpFiles(connect_timeout=2, allow_private=True)
    return {"http": http, "https": http, "": BucketFiles()}


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


class Listing:
    """Lists sources as the command line does, and reads them as a worker does."""

    def __init__(self, home: Path, remotes: dict[str, RemoteFiles]) -> None:
        self._home, self._remotes = home, remotes
        self.skipped: list[str] = []

    def __call__(self, *paths: str | Path, stdin: bytes = b"", suffix: str = "", **names: str) -> list[Source]:
        outside = Outside(
            self._remotes,
            Spool(self._home / "spool", 1000),
            io.BytesIO(stdin),
            max_source_bytes=1000,
            max_download_bytes=10_000,
            fetch_timeout=1,
            download_timeout=5,
        )
        return list(
            discover(
                paths,
                fields=RecordFields(),
                max_record_bytes=1000,
                on_skip=lambda path, reason: self.skipped.append(f"{path}: {reason}"),
                outside=outside,
                suffix=suffix,
                **names,  # type: ignore[arg-type]
            )
        )

    def read(self, source: Source) -> bytes:
        return read_source(source, max_bytes=1000, remotes=self._remotes, timeout=1)


@pytest.fixture
def listing(tmp_path: Path, remotes: dict[str, RemoteFiles]) -> Listing:
    return Listing(tmp_path / "home", remotes)


# --------------------------------------------------------------------------- standard input


def test_standard_input_is_one_text_under_the_key_that_is_given(listing: Listing) -> None:
    [source] = listing("-", stdin=b"hello")
    assert (source.key, source.format, listing.read(source)) == ("stdin", "text", b"hello")
    assert [source.key for source in listing("-", stdin=b"x", name="minutes")] == ["minutes"]


def test_what_was_copied_comes_from_no_path_under_which_it_could_be_pruned(listing: Listing, web: WebServer) -> None:
    web.pages["/rows"] = answer(b'{"text": "x"}\n', content_type="application/jsonl")
    sources = [*listing("-", stdin=b"x", name="minutes"), *listing(web.url("/rows"))]
    assert [source.origin for source in sources] == ["stdin:///minutes", web.url("/rows")]
    assert all(source.spooled.startswith("/") for source in sources)


def test_records_on_standard_input_are_sources_of_their_own_and_may_be_longer_than_a_document(
    listing: Listing,
) -> None:
    lines = [b'{"id": "a%d", "text": "x"}' % number for number in range(99)] + [b'{"text": "no id"}']
    sources = listing("-", stdin=b"\n".join(lines), suffix=".jsonl")
    assert [source.key for source in sources] == [*(f"a{number}" for number in range(99)), "stdin#L100"]
    assert [listing.read(source).strip() for source in sources] == lines


def test_a_document_on_standard_input_that_is_too_long_is_refused_and_leaves_nothing(
    listing: Listing, tmp_path: Path
) -> None:
    with pytest.raises(UnreadableSource, match=r"Standard input has more than 1,000 bytes"):
        listing("-", stdin=b"x" * 1001)
    assert list((tmp_path / "home" / "spool").iterdir()) == []


def test_standard_input_is_named_once_and_of_a_known_format(listing: Listing) -> None:
    with pytest.raises(BadSettings, match="only once"):
        listing("-", "-")
    with pytest.raises(BadSettings, match="not a known format"):
        listing("-", suffix=".exe")


def test_copies_that_are_too_old_are_removed_by_the_next_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ttl=100)
    old, young = (spool.keep([b"x"], max_bytes=None, what="it") for _ in range(2))
    os.utime(old, (0, 0))
    newest = spool.keep([b"y", b"z"], max_bytes=2, what="it")
    assert {path.name for path in tmp_path.iterdir()} == {young.name, newest.name}
    assert newest.read_bytes() == b"yz"


def test_two_ingests_may_remove_the_same_old_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, ttl=100)
    gone = spool.keep([b"x"], max_bytes=None, what="it")
    listed = list(tmp_path.iterdir())
    gone.unlink()
    monkeypatch.setattr(Path, "iterdir", lambda _self: iter(listed))
    assert spool.keep([b"y"], max_bytes=None, what="it").read_bytes() == b"y"


def test_a_spool_that_cannot_be_written_to_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSettings, match=r"it can't be copied to .*file: .*CELERIAC_HOME"):
        Spool(tmp_path / "file", ttl=1).keep([b"x"], max_bytes=None, what="it")


# --------------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("path", "media_type", "format_"),
    [
        ("/page", "text/html; charset=utf-8", "html"),
        ("/guide.md", "text/plain", "markdown"),
        ("/guide.md?raw=1", "text/plain", "markdown"),
        ("/paper", "application/pdf", "pdf"),
        ("/paper.pdf", "application/octet-stream", "pdf"),
        ("/a.pdf", "text/html", "html"),
        ("/notes", "text/plain", "text"),
        ("/untold", "", "text"),
    ],
)
def test_the_server_says_what_a_url_is_then_its_name(
    listing: Listing, web: WebServer, path: str, media_type: str, format_: str
) -> None:
    web.pages[path] = answer(b"text", content_type=media_type)
    [source] = listing(web.url(path))
    assert (source.key, source.format, listing.read(source)) == (web.url(path), format_, b"text")


def test_an_option_says_it_better_than_the_server(listing: Listing, web: WebServer) -> None:
    web.pages["/odd"] = answer(b"# Title", content_type="image/png")
    assert [source.format for source in listing(web.url("/odd"), suffix=".md")] == ["markdown"]
    assert listing(web.url("/odd")) == []
    assert listing.skipped == [f"{web.url('/odd')}: not a known kind of document"]


def test_records_at_a_url_are_copied_and_keyed_by_their_ids_or_the_url(listing: Listing, web: WebServer) -> None:
    web.pages["/data"] = answer(b'{"id": 1}\n{"x": 2}\n', content_type="application/x-ndjson")
    sources = listing(web.url("/data"))
    assert [source.key for source in sources] == ["1", f"{web.url('/data')}#L2"]
    assert [listing.read(source).strip() for source in sources] == [b'{"id": 1}', b'{"x": 2}']


def test_a_url_that_cannot_be_read_becomes_a_source_that_the_worker_reports(listing: Listing, web: WebServer) -> None:
    web.pages["/broken.html"] = answer(b"", status=500)
    gone, broken = listing(web.url("/gone.jsonl"), web.url("/broken.html"))
    assert (gone.format, broken.format) == ("json", "html")
    with pytest.raises(UnreadableSource, match="answered 404"):
        listing.read(gone)
    with pytest.raises(ServerFault, match="answered 500"):
        listing.read(broken)


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://user:secret@host/a", r"http://…@host holds credentials"),
        ("s3://key:secret@bucket/a", r"s3://…@bucket holds credentials"),
        ("http:///a", "names no host"),
        ("http://host:99999/", "is no address"),
        ("http://ho st/\n", "is no address"),
        ("file://elsewhere/a", "on another host"),
        ("nosuch://bucket/a", "can't be used"),
    ],
)
def test_a_url_of_no_use_is_refused_in_one_line_without_its_secrets(listing: Listing, url: str, cause: str) -> None:
    with pytest.raises(BadSettings, match=cause) as caught:
        listing(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_an_outside_only_paths_are_listed() -> None:
    with pytest.raises(BadSettings, match="Only files and folders"):
        discover(["http://host/"], fields=RecordFields(), max_record_bytes=1)


@pytest.mark.parametrize(
    ("url", "suffix"),
    [
        ("http://example.com", ""),
        ("http://example.com/a.PDF?x=.md", ".pdf"),
        ("s3://bucket/a?b.md", ".md"),
        ("zip://a.txt::s3://bucket/b.zip", ".txt"),
    ],
)
def test_the_suffix_of_a_url_is_that_of_its_file(url: str, suffix: str) -> None:
    assert suffix_of(url) == suffix


# --------------------------------------------------------------------------- buckets, patterns, file URLs


def test_a_bucket_gives_its_known_files_and_the_records_in_them(listing: Listing, tmp_path: Path) -> None:
    for name, text in {"a.md": "# A", "deep/b.jsonl": '{"id": "b1"}\n', "c.bin": "?", "odd\\name\n.txt": "o"}.items():
        (tmp_path / "bucket" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bucket" / name).write_text(text)
    sources = {source.format: source for source in listing(f"local://{tmp_path}/bucket")}
    assert sources["markdown"].origin.endswith("/bucket/a.md")
    assert sources["json"].key == "b1"
    assert [listing.read(sources[kind]) for kind in ("markdown", "json", "text")] == [b"# A", b'{"id": "b1"}\n', b"o"]
    assert [line.rpartition("/")[2] for line in listing.skipped] == ["c.bin: not a known kind of document"]


def test_an_object_that_vanished_is_reported_by_the_worker(listing: Listing, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    [source] = listing(f"local://{tmp_path}/a.txt")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UnreadableSource, match="is not there"):
        listing.read(source)


def test_a_pattern_is_expanded_and_one_that_matches_nothing_reported(listing: Listing, tmp_path: Path) -> None:
    for name in ("a.md", "b.txt"):
        (tmp_path / name).write_text("x")
    assert [Path(source.key).name for source in listing(tmp_path / "*.md")] == ["a.md"]
    assert listing(tmp_path / "*.pdf") == []
    assert listing.skipped == [f"{tmp_path}/*.pdf: no file matches that wasn't there already"]
    with pytest.raises(NotFound, match="gone is no folder"):
        listing(tmp_path / "gone" / "*.md")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(listing: Listing, tmp_path: Path) -> None:
    (tmp_path / "a[1]*.md").write_text("x")
    assert [source.key for source in listing(tmp_path / "a[1]*.md")] == [f"{tmp_path}/a[1]*.md"]


def test_a_file_url_is_its_path(tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_text("x")
    assert root_of(f"file://{tmp_path}/a%20b.txt") == ("file", f"{tmp_path}/a b.txt")


def test_a_scheme_may_be_written_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert root_of(f"FILE://{tmp_path}/a.txt") == ("file", f"{tmp_path}/a.txt")
    assert root_of("HTTPS://Example.org/A") == ("url", "https://Example.org/A")


def test_an_empty_argument_is_not_the_current_folder() -> None:
    with pytest.raises(BadSettings, match="names nothing"):
        root_of("")
