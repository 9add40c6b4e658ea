from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from pipeline.errors import BadSettings
from pipeline.ingest.folders import Walk
from pipeline.ingest.globs import Glob


class Heard:
    def __init__(self) -> None:
        self.skipped: list[str] = []
        self.ignored = 0

    def skip(self, path: str, reason: str) -> None:
        self.skipped.append(f"{Path(path).name}: {reason}")

    def ignore(self) -> None:
        self.ignored += 1


def make(folder: Path, *names: str, **rules: str) -> None:
    """Files with these names; ``sub="*.txt"`` is the .ragignore of the folder ``sub``, ``top`` that of all."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for place, text in rules.items():
        (folder if place == "top" else folder / place).joinpath(".ragignore").write_text(text)


def walked(folder: Path, *patterns: str, heard: Heard | None = None) -> list[str]:
    heard = heard or Heard()
    walk = Walk(heard.skip, heard.ignore)
    globs = [Glob(str(folder / pattern)) for pattern in patterns]
    found = [path for glob in globs for path in walk.files(glob.base, glob)] if globs else list(walk.files(str(folder)))
    return [os.path.relpath(path, folder) for path in [*found, *walk.linked()]]


def test_rules_keep_files_and_folders_out_and_are_counted(tmp_path: Path) -> None:
    make(
        tmp_path, "a.md", "b.log", "keep.log", "build/c.md", "sub/build/d.md", top="*.log\n!keep.log\nbuild/\n# note\n"
    )
    heard = Heard()
    assert walked(tmp_path, heard=heard) == ["a.md", "keep.log"]
    assert heard.ignored == 3


def test_rules_of_a_folder_hold_below_it_and_win_over_those_above(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "sub/a.txt", "sub/b.md", "sub/deep/c.txt", "d.md", top="*.md", sub="!b.md\n/a.txt")
    assert walked(tmp_path) == ["a.txt", "sub/b.md", "sub/deep/c.txt"]


def test_an_anchored_rule_means_its_own_folder_only(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "sub/a.txt", top="/a.txt")
    assert walked(tmp_path) == ["sub/a.txt"]


def test_rules_that_make_no_sense_end_the_listing(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", top="!\n")
    with pytest.raises(BadSettings, match=r"\.ragignore: .*syntax of \.gitignore"):
        walked(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.md", ["a.md"]),
        ("**/*.md", ["a.md", "x/b.md", "x/y/c.md"]),
        ("x/**", ["x/b.md", "x/b.txt", "x/y/c.md"]),
        ("*/*.md", ["x/b.md"]),
        ("**/y/*", ["x/y/c.md"]),
        ("x/?.[mt]*", ["x/b.md", "x/b.txt"]),
        ("**/*.pdf", []),
    ],
)
def test_a_pattern_means_what_a_shell_makes_of_it(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    make(tmp_path, "a.md", "x/b.md", "x/b.txt", "x/y/c.md", "x/.hidden.md")
    assert walked(tmp_path, pattern) == expected


def test_patterns_that_overlap_give_each_file_once_and_obey_rules(tmp_path: Path) -> None:
    make(tmp_path, "a.md", "x/b.md", "x/secret.md", x="secret.md")
    assert sorted(walked(tmp_path, "**/*.md", "x/*", "*.md")) == ["a.md", "x/b.md"]


def test_a_pattern_does_not_enter_folders_that_it_cannot_mean(tmp_path: Path) -> None:
    make(tmp_path, "a.md", "x/b.md")
    (tmp_path / "x" / "loop").symlink_to("loop")
    heard = Heard()
    assert walked(tmp_path, "*.md", heard=heard) == ["a.md"]
    assert heard.skipped == []


def test_links_in_circles_are_walked_once_and_links_to_themselves_reported(tmp_path: Path) -> None:
    make(tmp_path, "a/b/c.txt")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to("self")
    heard = Heard()
    assert walked(tmp_path, heard=heard) == ["a/b/c.txt"]
    assert heard.skipped == ["self: Too many levels of symbolic links"]


def test_links_are_followed_unless_their_file_came_already(tmp_path: Path) -> None:
    make(tmp_path, "outside/real.txt", "in/a.txt", "in/old.txt", **{"in": "old.txt"})
    for name, target in {"to-real": "../outside/real.txt", "again": "../outside/real.txt", "to-a": "a.txt"}.items():
        (tmp_path / "in" / f"{name}.txt").symlink_to(target)
    (tmp_path / "in" / "to-ignored.txt").symlink_to("old.txt")
    os.link(tmp_path / "in" / "a.txt", tmp_path / "in" / "hard.txt")
    assert walked(tmp_path / "in") == ["a.txt", "again.txt", "to-ignored.txt"]


def test_a_folder_of_very_many_files_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory holds one block of its entries, whatever their number, and each block is in order."""
    monkeypatch.setattr("pipeline.ingest.folders._SORTED_ENTRIES", 100)
    for number in range(5_000):
        (tmp_path / f"{number}.txt").touch()
    heard = Heard()
    files = Walk(heard.skip, heard.ignore).files(str(tmp_path))
    first = [next(files) for _ in range(100)]
    assert first == sorted(first)
    tracemalloc.start()
    assert sum(1 for _ in files) == 4_900
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


def test_a_folder_that_vanishes_or_cannot_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.txt", "locked/b.txt", "z.txt")
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # the tests may run as root, who reads everything
    heard = Heard()
    assert walked(tmp_path, heard=heard) == ["a.txt", "z.txt"]
    assert heard.skipped == ["locked: Permission denied"]
