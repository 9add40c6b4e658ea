"""The questions of a batch: text, CSV or JSON lines, read one at a time and as often as needed.

What can be read only once, such as standard input, is copied to a temporary file first: a batch is looked through to
its end before its first question is paid for.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO, Literal, NamedTuple, Self, get_args

from pydantic import ValidationError

from pipeline.errors import BadSettings
from pipeline.types import AskOptions

Format = Literal["text", "csv", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)
ENDINGS: Mapping[str, Format] = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
"""What a file is by the ending of its name; all others are text."""
STDIN = "-"
MAX_LINE_BYTES = 1_000_000

_OPTIONS = tuple(name for name in AskOptions.model_fields if name != "bulk")  # all questions of a batch are that
_BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """One question: the number of its line, from 1, its own id or '', and what it asks for beside the batch's options;
    ``extra`` holds the columns that mean nothing to us.
    """

    number: int
    text: str
    id: str = ""
    kb: str = ""
    options: Mapping[str, Any] = {}
    extra: Mapping[str, Any] = {}


class QuestionFile:
    """Iterates over the questions, from the first each time. Raises BadSettings, naming the line, for what is no
    question.
    """

    def __init__(self, file: BinaryIO, name: str, kind: Format) -> None:
        """Over a file that can be read again; ``name`` is for messages."""
        self._file = file
        self.name = name
        self._kind = kind

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Close the file."""
        self._file.close()

    def __iter__(self) -> Iterator[Line]:
        """Questions in their order; blank lines are passed over."""
        self._file.seek(0)
        if self._kind == "text":
            return (Line(number, text.strip()) for number, text in self._texts() if text.strip())
        return self._from_fields(self._rows() if self._kind == "csv" else self._objects())

    def _from_fields(self, found: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[Line]:
        for number, fields in found:
            try:
                yield _line(number, fields)
            except ValueError as error:
                raise self._wrong(number, str(error)) from None

    def _texts(self) -> Iterator[tuple[int, str]]:
        for number, line in enumerate(iter(lambda: self._file.readline(MAX_LINE_BYTES + 1), b""), start=1):
            if len(line) > MAX_LINE_BYTES:
                raise self._wrong(number, f"it is longer than {MAX_LINE_BYTES:,} bytes")
            try:
                yield number, line.removeprefix(_BOM if number == 1 else b"").decode("utf-8")
            except UnicodeDecodeError as error:
                hint = "Convert it to UTF-8 first."
                raise self._wrong(number, f"it is not UTF-8 (byte {error.start + 1})", hint) from None

    def _objects(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, text in self._texts():
            if text := text.strip():
                yield number, self._object(number, text)

    def _object(self, number: int, text: str) -> Mapping[str, Any]:
        try:
            found = json.loads(text, parse_constant=_refuse_constant)
            text.encode() if "\\u" not in text else json.dumps(found, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            raise self._wrong(number, f"it is not JSON: {error.msg} (column {error.colno})") from None
        except (ValueError, RecursionError) as error:
            raise self._wrong(number, f"it can't be taken: {error}") from None
        if isinstance(found, str):
            return {"question": found}
        if not isinstance(found, dict):
            raise self._wrong(number, "it is JSON, but no object")
        if "question" not in found:
            raise self._wrong(number, 'it has no "question"')
        return found

    def _rows(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        lines = (text for _, text in self._texts())
        first = next(lines, "")
        delimiter = max(",;\t|", key=first.count)
        header = next(csv.reader([first], delimiter=delimiter), [])
        columns = [name.strip() for name in header]
        if "question" not in columns:
            raise self._wrong(1, "no column is called question", "The first row names the columns.")
        if len(set(columns)) < len(columns):
            raise self._wrong(1, "two columns have the same name")
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            number = reader.line_num + 2  # the header is the first
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise self._wrong(number, f"it is not CSV: {error}") from None
            if row is None:
                return
            if len(row) > len(columns):
                raise self._wrong(number, f"it has {len(row)} fields, and there are {len(columns)} columns")
            if row:
                yield number, dict(zip(columns, row + [""] * (len(columns) - len(row)), strict=True))

    def _wrong(self, number: int, what: str, hint: str = "") -> BadSettings:
        return BadSettings(f"{self.name}, line {number}: {what}.", hint)


def open_questions(path: str, kind: str = "") -> QuestionFile:
    """The questions in a file, or in standard input for ``-``; raises BadSettings for what can't be read.

    ``kind`` is one of :data:`FORMATS`, '' takes it from the ending of the name.
    """
    name = "standard input" if path == STDIN else path
    found = _kind_of(path, kind)
    try:
        return QuestionFile(_copy(sys.stdin.buffer) if path == STDIN else _opened(path), name, found)
    except (OSError, ValueError) as error:  # the latter for a name with a zero byte in it
        cause = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise BadSettings(f"{name} can't be read: {cause}.") from None


def _kind_of(path: str, kind: str) -> Format:
    ending = os.path.splitext(path)[1].lower()
    if not kind and ending == ".json":
        raise BadSettings(f"{path} is JSON; a batch takes JSON lines.", "One object a line; or say --format.")
    wanted = kind or ENDINGS.get(ending, "text")
    for known in FORMATS:
        if wanted == known:
            return known
    raise BadSettings(f"There is no format {kind!r}.", f"It is one of {', '.join(FORMATS)}.")


def _opened(path: str) -> BinaryIO:
    file: BinaryIO = open(path, "rb")  # noqa: SIM115 - QuestionFile closes it
    if file.seekable():
        return file
    with file:
        return _copy(file)


def _copy(source: BinaryIO) -> BinaryIO:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - QuestionFile closes it
    shutil.copyfileobj(source, copy)
    return copy


def _line(number: int, fields: Mapping[str, Any]) -> Line:
    known = {"question", "id", "kb", *_OPTIONS}
    text = _text(fields, "question")
    if not text.strip():
        raise ValueError("the question is empty")
    return Line(
        number,
        text=text,
        id=_text(fields, "id").strip(),
        kb=_text(fields, "kb").strip(),
        options=_options({name: fields[name] for name in _OPTIONS if fields.get(name) not in (None, "")}),
        extra={name: value for name, value in fields.items() if name not in known},
    )


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if name == "id" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    return value or ""


def _options(given: Mapping[str, Any]) -> Mapping[str, Any]:
    if not given:
        return {}
    try:
        return AskOptions.model_validate(given).model_dump(mode="json", include=set(given))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{first['loc'][0]}: {first['msg'][0].lower()}{first['msg'][1:]}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
