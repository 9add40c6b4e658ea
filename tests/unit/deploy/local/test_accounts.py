"""Which files an account can reach, judged by their modes alone; nothing is changed."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import accounts
from deploy.local.accounts import reachable, reachable_copy

NOBODY = (54_321, 54_321)


@pytest.fixture
def open_folder(services_folder: Path) -> Iterator[Path]:
    """A folder that everybody can come to (pytest's own are for the owner only)."""
    folder = services_folder / "accounts"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_closed_folder_above_makes_a_file_unreachable(open_folder: Path) -> None:
    closed = open_folder / "closed"
    (closed / "inner").mkdir(parents=True)
    assert reachable(closed / "inner", NOBODY)
    closed.chmod(0o700)
    assert not reachable(closed / "inner", NOBODY)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_a_folder_may_be_passed_through_without_being_read(open_folder: Path) -> None:
    passage = open_folder / "passage"
    passage.mkdir()
    passage.chmod(0o711)
    assert reachable(passage, NOBODY, read=False)
    assert not reachable(passage, NOBODY)


def test_the_owner_is_judged_by_the_owners_bits(open_folder: Path) -> None:
    own = open_folder / "own"
    own.mkdir(mode=0o700)
    status = own.stat()
    assert reachable(own, (status.st_uid, status.st_gid))


def test_a_copy_keeps_the_places_of_programs_and_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "SYSTEM_FOLDER", tmp_path / "system")
    program = tmp_path / "venv" / "package" / "install" / "bin" / "postgres"
    library = tmp_path / "venv" / "package.libs" / "libpq.so"
    for file in (program, library):
        file.parent.mkdir(parents=True)
        file.write_text(file.name)
        file.chmod(0o700)
    copy = reachable_copy(program.parents[1], library.parent, "programs")
    assert copy == tmp_path / "system" / "programs" / "package" / "install"
    assert (copy / "../../package.libs/libpq.so").read_text() == "libpq.so"
    assert stat.S_IMODE((copy / "bin" / "postgres").stat().st_mode) == 0o755
    assert reachable_copy(program.parents[1], library.parent, "programs") == copy
