"""A folder full of what breaks readers, among good documents; and what is to become of each of them."""

from __future__ import annotations

import os
import random
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.ingest.origins import encode_path
from tests.pdf_file import pdf

GOOD = 30
MB = 1_000_000
LONG_LINE_BYTES = 200 * MB
_UNPACKED_MB = 400
_DEPTH = 100_000
_STATES = (b"alpha ", b"omega ")
_CHANGING_WORDS = 400_000
_PAUSE = 0.002

REFUSED: Mapping[str, tuple[str, str]] = {
    "bomb.docx": ("ParseFailed", "unpacks to"),
    "truncated.pdf": ("ParseFailed", "PDF"),
    "long-line.txt": ("UnreadableSource", "200,000,000 bytes"),
    "long-line.jsonl#L1": ("UnreadableSource", "200,000,000 bytes"),
    "deep.json": ("ParseFailed", "nested too deeply"),
    "deep.jsonl#L2": ("ParseFailed", "nested too deeply"),
    "binary.txt": ("ParseFailed", "not a text file"),
    "empty.txt": ("ParseFailed", "holds no text"),
    "deleted.txt": ("UnreadableSource", "No such file"),
    "became-a-folder.txt": ("UnreadableSource", "directory"),
    "became-a-pipe.txt": ("UnreadableSource", "not a regular file"),
    "became-a-ring.txt": ("UnreadableSource", "symbolic links"),
}
"""Name of each source that can't be read: class of its error, and words of its message."""

NESTED_HTML = "deep.html"
CHANGING = "changing.txt"
SKIPPED = ("/ring.txt", "/loop")
"""Symbolic links without an end: there is nothing to list, so these are no items."""

ODD_NAMES = (b"two\nlines.txt", b"latin-\xe9t\xe9-\xff.txt")


class PoisonFolder:
    """The files below ``path``; make them, then list the sources, then :meth:`spoil` what is to change in between."""

    def __init__(self, path: Path) -> None:
        """Write everything as it is when it is found."""
        self.path = path
        path.mkdir()
        self.good = [self._good(f"good-{number:02}.txt".encode(), f"plain{number:02}") for number in range(GOOD)]
        self.odd = [self._good(name, f"oddly{number}") for number, name in enumerate(ODD_NAMES)]
        self._write_damaged()
        self._write_nested()
        self._write_large()
        (path / "ring.txt").symlink_to("ring.txt")
        (path / "loop").symlink_to(path, target_is_directory=True)
        for name in ("deleted.txt", "became-a-folder.txt", "became-a-pipe.txt", "became-a-ring.txt"):
            (path / name).write_text("It was a good document when it was found.")

    def key(self, name: str) -> str:
        """How the manifest knows the source of that name."""
        return encode_path(self.path / name)

    def spoil(self) -> None:
        """What happens to files between the listing and the reading.

        A folder, a pipe and a ring of links in the place of a file are unreadable for root as well, whom no
        permission keeps out.
        """
        for name in ("deleted.txt", "became-a-folder.txt", "became-a-pipe.txt", "became-a-ring.txt"):
            (self.path / name).unlink()
        (self.path / "became-a-folder.txt").mkdir()
        os.mkfifo(self.path / "became-a-pipe.txt")
        (self.path / "became-a-ring.txt").symlink_to("became-a-ring.txt")

    @contextmanager
    def rewriting(self) -> Iterator[None]:
        """Meanwhile one file is rewritten in place again and again, as a log or a careless program does."""
        over = threading.Event()
        writer = threading.Thread(target=self._rewrite, args=(over,))
        writer.start()
        try:
            yield
        finally:
            over.set()
            writer.join()

    def remove_large(self) -> None:
        """Give the disk back."""
        for name in ("long-line.txt", "long-line.jsonl", "bomb.docx"):
            with suppress(FileNotFoundError):
                (self.path / name).unlink()

    def _good(self, name: bytes, word: str) -> tuple[str, str]:
        """(key, the word that stands in no other document)."""
        place = Path(os.fsdecode(os.path.join(os.fsencode(self.path), name)))
        place.write_text(f"The gauge {word} of the mill shows the height of the water and the speed of the wheel.")
        return encode_path(place), word

    def _write_damaged(self) -> None:
        whole = pdf([["A page that is whole."], ["A second page that is not."]])
        (self.path / "truncated.pdf").write_bytes(whole[: len(whole) // 4])
        (self.path / "empty.txt").write_bytes(b"")
        (self.path / "binary.txt").write_bytes(random.Random(7).randbytes(200_000))
        (self.path / CHANGING).write_bytes(_STATES[0] * _CHANGING_WORDS)

    def _write_nested(self) -> None:
        (self.path / NESTED_HTML).write_text(f"<html><body>{'<div>' * _DEPTH}A word in the deep.")
        nested = f"{'[' * _DEPTH}1{']' * _DEPTH}"
        (self.path / "deep.json").write_text(nested)
        (self.path / "deep.jsonl").write_text(f'{{"text": "A record before it."}}\n{{"text": {nested}}}\n')

    def _write_large(self) -> None:
        with zipfile.ZipFile(self.path / "bomb.docx", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("[Content_Types].xml", "<Types/>")
            with archive.open("word/document.xml", "w", force_zip64=True) as document:
                for _ in range(_UNPACKED_MB):
                    document.write(b"<w:p/>" * (MB // 6))
        for name, start in (("long-line.txt", b"It has no end. "), ("long-line.jsonl", b'{"text": "It has no end. ')):
            with (self.path / name).open("wb") as file:
                file.write(start)
                file.truncate(LONG_LINE_BYTES)  # sparse: it takes no room

    def _rewrite(self, over: threading.Event) -> None:
        turn = 0
        with (self.path / CHANGING).open("r+b") as file:
            while not over.is_set():
                turn += 1
                file.seek(0)
                file.write(_STATES[turn % 2] * _CHANGING_WORDS)
                file.flush()
                over.wait(_PAUSE)


def is_torn(text: str) -> bool:
    """Whether the text of the changing file is that of no moment: words of both of its states."""
    return all(state.decode().strip() in text for state in _STATES)
