"""Documents that show what was lost: every one has a text of its own making, known here character by character.

Half of them are records of JSON lines, half are text files; some have several chunks. Pairs of documents share one
text; some records are named twice, and the last one counts. A share of them is live before the chaos starts, and half
of those have another text by then.
"""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.ingest.origins import encode_path

_ADJECTIVES = (
    "old", "new", "red", "blue", "cold", "warm", "quiet", "loud", "small", "large", "steep", "narrow", "broken",
    "painted", "hollow", "früh", "spät", "weiß",
)  # fmt: skip
_NOUNS = (
    "valve", "pump", "river", "bridge", "engine", "ledger", "harbour", "lantern", "orchard", "tunnel", "Brücke",
    "Straße", "café", "façade", "橋", "мост",
)  # fmt: skip
_VERBS = (
    "feeds", "cools", "crosses", "lifts", "counts", "guards", "drains", "lights", "carries", "repairs", "measures",
    "überquert",
)  # fmt: skip
_SENTENCES_OF_LONG = 120
_RECORD_FILES = 3


@dataclass
class Corpus:
    """Two states of one folder: :meth:`write_first` makes the earlier, :meth:`write_all` the later one.

    ``texts`` are the texts of the later state by the keys of their documents, ``earlier`` those of the first, ``names``
    the word that stands in one document only (or in the two of a pair). ``unchanged`` are the keys alike in both.
    """

    folder: Path
    count: int
    seed: int
    texts: dict[str, str] = field(default_factory=dict)
    earlier: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make up all texts; write nothing yet."""
        self._random = random.Random(self.seed)
        for number in range(self.count):
            key = self._key(number)
            twin = number % 40 == 3  # the text of the one before
            self.names[key] = self.names[self._key(number - 1)] if twin else f"q{self.seed}x{number:05}"
            self.texts[key] = self.texts[self._key(number - 1)] if twin else self._text(key, number)
            if number % 10 < 3:
                self.earlier[key] = self._text(key, number) if number % 2 else self.texts[key]

    @property
    def unchanged(self) -> set[str]:
        """Documents that are live with their final text before the chaos starts."""
        return {key for key, text in self.earlier.items() if self.texts[key] == text}

    @property
    def paths(self) -> list[Path]:
        """What to ingest: the folder, and one of its files named a second time."""
        return [self.folder, self.folder / "records-0.jsonl"]

    def write_first(self) -> None:
        """The earlier state."""
        self._write(self.earlier, doubled=False)

    def write_all(self) -> None:
        """The later state."""
        self._write(self.texts, doubled=True)

    def _key(self, number: int) -> str:
        if self._is_record(number):
            return f"record-{number:05}"
        return encode_path(self.folder / f"file-{number:05}.txt")

    @staticmethod
    def _is_record(number: int) -> bool:
        return number % 2 == 0

    def _text(self, key: str, number: int) -> str:
        sentences = _SENTENCES_OF_LONG if number % 25 == 1 else self._random.randint(1, 6)
        lines = (self._sentence(self.names[key]) for _ in range(sentences))
        return unicodedata.normalize("NFC", "\n\n".join(lines))

    def _sentence(self, name: str) -> str:
        adjective, noun, verb, other = (self._random.choice(w) for w in (_ADJECTIVES, _NOUNS, _VERBS, _NOUNS))
        return f"The {adjective} {noun} {name} {verb} {self._random.randint(2, 9999)} times the {other} 🌱."

    def _write(self, texts: dict[str, str], *, doubled: bool) -> None:
        self.folder.mkdir(exist_ok=True)
        lines: list[list[str]] = [[] for _ in range(_RECORD_FILES)]
        for number in range(self.count):
            key = self._key(number)
            if key in texts and not self._is_record(number):
                (self.folder / f"file-{number:05}.txt").write_text(texts[key], encoding="utf-8")
            elif key in texts:
                lines[number % _RECORD_FILES] += self._records(key, number, texts[key], doubled=doubled)
        for index, records in enumerate(lines):
            (self.folder / f"records-{index}.jsonl").write_text("".join(records), encoding="utf-8")

    def _records(self, key: str, number: int, text: str, *, doubled: bool) -> Iterator[str]:
        if doubled and number % 50 == 8:
            yield json.dumps({"id": key, "text": f"{text} This one is followed by a better one."}) + "\n"
        yield json.dumps({"id": key, "text": text}, ensure_ascii=False) + "\n"
