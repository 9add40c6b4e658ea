"""What every reader of URLs does, over a web server and over file systems of fsspec."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.adapters.bucket_files import BucketFiles
from pipeline.adapters.http_files import HttpFiles
from pipeline.errors import BadSettings, CeleriacError, NotFound, UnreadableSource
from pipeline.seams import RemoteFiles
from tests.web_server import answer, web_server

Put = Callable[[str, bytes], str]


def read(files: RemoteFiles, url: str, max_bytes: int = 1000) -> bytes:
    with files.open(url, max_bytes=max_bytes, timeout=5) as download:
        assert download.media_type == download.media_type.lower()
        return b"".join(download.pieces())


class RemoteFilesContract:
    def test_a_file_is_found_and_read_whole(self, files: RemoteFiles, put: Put) -> None:
        url = put("a.txt", b"abc")
        assert list(files.find(url, timeout=5)) == [url]
        assert read(files, url, 3) == b"abc"

    def test_a_longer_one_is_refused(self, files: RemoteFiles, put: Put) -> None:
        with pytest.raises(UnreadableSource, match="more than 2 bytes"):
            read(files, put("a.txt", b"abc"), 2)

    def test_one_that_is_not_there_says_so(self, files: RemoteFiles, put: Put) -> None:
        gone = put("b.txt", b"").replace("b.txt", "gone.txt")
        with pytest.raises(CeleriacError, match=r"gone\.txt"):
            read(files, gone)

    def test_a_name_with_spaces_and_accents_is_read(self, files: RemoteFiles, put: Put) -> None:
        assert read(files, put("grö ße.txt", b"x")) == b"x"


class TestHttpFiles(RemoteFilesContract):
    @pytest.fixture
    def files(self) -> RemoteFiles:
        return HttpFiles(connect_timeout=2, allow_private=True)

    @pytest.fixture
    def put(self) -> Iterator[Put]:
        from urllib.parse import quote

        with web_server() as web:

            def put(name: str, data: bytes) -> str:
                web.pages[f"/{quote(name)}"] = answer(data)
                return web.url(f"/{quote(name)}")

            yield put


class TestBucketFiles(RemoteFilesContract):
    @pytest.fixture
    def files(self) -> RemoteFiles:
        return BucketFiles()

    @pytest.fixture
    def put(self, tmp_path: Path) -> Put:
        def put(name: str, data: bytes) -> str:
            (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / name).write_bytes(data)
            return f"local://{tmp_path}/{name}"

        return put

    def test_folders_are_listed_to_the_bottom_without_hidden_ones(
        self, files: RemoteFiles, put: Put, tmp_path: Path
    ) -> None:
        for name in ("b.md", "a/z.txt", "a/y/x.txt", ".git/config", ".hidden"):
            put(name, b"x")
        found = [url.rpartition(f"{tmp_path}/")[2] for url in files.find(f"local://{tmp_path}", timeout=5)]
        assert found == ["b.md", "a/z.txt", "a/y/x.txt"]
        assert all(read(files, url) == b"x" for url in files.find(f"local://{tmp_path}", timeout=5))

    def test_a_bucket_of_objects_is_listed_and_read_by_what_was_listed(self, files: RemoteFiles) -> None:
        import fsspec

        memory = fsspec.filesystem("memory")
        memory.pipe({"/listed/a.txt": b"1", "/listed/sub/b\nc.txt": b"2", "/other/d.txt": b"3"})
        urls = list(files.find("memory://listed", timeout=5))
        assert [read(files, url) for url in urls] == [b"1", b"2"]
        memory.rm("/listed", recursive=True)

    def test_files_inside_an_archive_can_be_named(self, files: RemoteFiles, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("in/a.txt", "1")
            archive.writestr("in/deep/b.txt", "2")
        urls = list(files.find(f"zip://in::file://{tmp_path}/a.zip", timeout=5))
        assert [read(files, url) for url in urls] == [b"1", b"2"]

    @pytest.mark.parametrize("scheme", ["http://", "https://", "HTTP://", "simplecache::http://"])
    def test_a_chain_leads_to_no_address_that_nobody_has_checked(self, files: RemoteFiles, scheme: str) -> None:
        with web_server() as web:
            address = web.url("/a.zip").partition("://")[2]
            url = f"zip://a.txt::{scheme}{address}"
            with pytest.raises(BadSettings, match="Download it first"):
                files.find(url, timeout=5)
            with pytest.raises(BadSettings, match="Download it first"):
                read(files, url)
            assert not web.asked

    def test_nothing_there_is_not_found_before_anything_comes(self, files: RemoteFiles, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="nothing is not there"):
            files.find(f"local://{tmp_path}/nothing", timeout=5)

    def test_a_package_that_is_missing_is_named_with_how_to_install(self, files: RemoteFiles) -> None:
        with pytest.raises(BadSettings, match=r"dropbox:// needs a package.*pip install"):
            files.find("dropbox://folder", timeout=5)

    def test_a_protocol_that_nobody_knows_is_refused(self, files: RemoteFiles) -> None:
        with pytest.raises(BadSettings, match="can't be used"):
            files.find("nosuch://folder", timeout=5)
