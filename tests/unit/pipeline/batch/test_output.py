"""Files of results: nothing that was written is lost, and nothing is there twice."""

from __future__ import annotations

import json
import os
import random
import stat
import uuid
from collections.abc import Iterable
from pathlib import Path

import pytest

from pipeline.batch.identity import Terms
from pipeline.batch.lines import Line
from pipeline.batch.opening import open_output
from pipeline.batch.result import Result
from pipeline.errors import BadSettings, Conflict, TimedOut
from pipeline.types import Answer

TERMS = Terms()


def lines(count: int) -> list[Line]:
    return [Line(number, f"Question {number}?") for number in range(1, count + 1)]


def result(line: Line, *, failed: bool = False) -> Result:
    answer = Answer(question_id=str(uuid.uuid4()), outcome="answered", mode="generated", text=f"Answer {line.number}.")
    return Result(
        line=line.number,
        key=TERMS.key_of(line),
        status="failed" if failed else "done",
        question=line.text,
        kb="default",
        answer=None if failed else answer,
        error=TimedOut("Too slow.").to_json() if failed else None,
    )


def write(path: Path, given: Iterable[Line], *, of: list[Line], end: bool = False, **options: bool) -> list[int]:
    """Results of these lines, as a process writes them that may be killed then; the lines that waited before."""
    failed = options.pop("failed", False)
    with open_output(str(path), **options) as output:
        waiting = [line.number for line in output.waiting(of, TERMS.key_of)]
        for line in given:
            output.write(result(line, failed=failed))
        if end:
            output.end()
    return waiting


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["line"] for line in path.read_bytes().splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.mark.parametrize("in_order", [False, True])
class TestGoingOn:
    def test_what_is_there_does_not_wait_again(self, in_order: bool, out: Path) -> None:
        """A thousand keys: some end in a zero byte, which must not make them others."""
        every = lines(1000)
        random.Random(1).shuffle(every)
        assert write(out, every[:700], of=lines(1000), in_order=in_order) == list(range(1, 1001))
        open_ones = sorted(line.number for line in every[700:])
        assert write(out, every[700:], of=lines(1000), in_order=in_order, end=True) == open_ones
        assert sorted(numbers(out)) == list(range(1, 1001))
        assert in_order == (numbers(out) == sorted(numbers(out)))
        assert names(out.parent) == ["out.jsonl"]

    @pytest.mark.parametrize("torn", [b'{"line":3,"key":"abc', b"{", b"\0\0\0\0"])
    def test_a_torn_last_line_is_cut_off_and_its_question_waits(self, torn: bytes, in_order: bool, out: Path) -> None:
        write(out, lines(2), of=lines(3), in_order=in_order)
        journal = Path(f"{out}.part") if in_order else out
        whole = journal.read_bytes()
        journal.write_bytes(whole + torn)
        assert write(out, [], of=lines(3), in_order=in_order) == [3]
        assert journal.read_bytes() == whole

    def test_failures_wait_again_unless_they_are_to_be_kept(self, in_order: bool, out: Path) -> None:
        write(out, lines(1), of=lines(2), in_order=in_order)
        write(out, lines(2)[1:], of=lines(2), in_order=in_order, failed=True)
        assert write(out, [], of=lines(2), in_order=in_order, retry_failed=False) == []
        assert write(out, lines(2)[1:], of=lines(2), in_order=in_order, end=True) == [2]
        assert numbers(out) == [1, 2]
        assert "failed" not in {json.loads(line)["status"] for line in out.read_bytes().splitlines()}

    def test_results_from_before_are_found_as_they_were_written(self, in_order: bool, out: Path) -> None:
        write(out, lines(2), of=lines(3), in_order=in_order)
        with open_output(str(out), in_order=in_order) as output:
            found = list(output.found(lines(3), TERMS.key_of))
        assert [(one.line, one.answer and one.answer.text) for one in found] == [(1, "Answer 1."), (2, "Answer 2.")]

    def test_results_of_questions_that_are_gone_stay(self, in_order: bool, out: Path) -> None:
        write(out, lines(4), of=lines(4), in_order=in_order, end=True)
        assert write(out, [], of=lines(4)[2:], in_order=in_order, end=True) == []
        assert sorted(numbers(out)) == [1, 2, 3, 4]

    def test_results_of_other_questions_are_counted(self, in_order: bool, out: Path) -> None:
        write(out, lines(4), of=lines(5), in_order=in_order)
        with open_output(str(out), in_order=in_order) as output:
            assert len(list(output.found(lines(5)[2:], TERMS.key_of))) == 2
            assert output.strangers == 2

    def test_a_file_that_can_not_be_written_is_called_as_it_was_given(self, in_order: bool, out: Path) -> None:
        given = f"{out.parent}/./missing/x.jsonl"
        with pytest.raises(BadSettings) as caught:
            open_output(given, in_order=in_order)
        assert str(caught.value) == f"{given} can't be written: No such file or directory. Give another --out."

    def test_a_file_of_anything_else_is_not_touched(self, in_order: bool, out: Path) -> None:
        for content in (b"a\nb\n", b"no end", b'{"line": 1}\n', result(lines(1)[0]).to_line() + b"a\nb\n"):
            out.write_bytes(content)
            with pytest.raises(BadSettings, match="no result of a batch"):
                open_output(str(out), in_order=in_order)
            assert out.read_bytes() == content
            assert names(out.parent) == ["out.jsonl"]

    def test_two_batches_cannot_write_one_file(self, in_order: bool, out: Path) -> None:
        with open_output(str(out), in_order=in_order), pytest.raises(Conflict, match="Another batch"):
            open_output(str(out), in_order=in_order)


class TestInOrder:
    def test_a_result_is_passed_on_when_none_before_it_is_missing(self, out: Path) -> None:
        with open_output(str(out), in_order=True) as output:
            first, second, third = output.waiting(lines(3), TERMS.key_of)
            output.write(result(third))
            output.write(result(second))
            assert numbers(out) == []
            assert numbers(Path(f"{out}.part")) == [3, 2]
            output.write(result(first))
            assert numbers(out) == [1, 2, 3]

    def test_one_may_change_ones_mind(self, out: Path) -> None:
        write(out, lines(3)[1:], of=lines(4), in_order=True)
        assert write(out, [], of=lines(4)) == [1, 4]
        assert numbers(out) == [2, 3]
        assert write(out, [lines(4)[3], lines(4)[0]], of=lines(4), in_order=True, end=True) == [1, 4]
        assert numbers(out) == [1, 2, 3, 4]


class TestIdentity:
    def test_a_batch_keeps_its_id_until_it_is_over(self, out: Path) -> None:
        ids = []
        for end in (False, True, False):
            with open_output(str(out)) as output:
                ids.append(output.batch_id)
                output.write(result(lines(1)[0]))
                if end:
                    output.end()
        assert ids[0] == ids[1] != ids[2]

    def test_whoever_removes_the_results_begins_anew(self, out: Path) -> None:
        with open_output(str(out)) as output:
            before = output.batch_id
        out.unlink()
        with open_output(str(out)) as output:
            assert output.batch_id != before


class TestWriting:
    def test_a_kept_file_keeps_its_mode_and_its_link(self, out: Path) -> None:
        real = out.with_name("real")
        write(real, lines(2), of=lines(2), failed=True)
        real.chmod(0o640)
        out.symlink_to(real)
        write(out, lines(2), of=lines(2))
        assert out.is_symlink()
        assert stat.S_IMODE(real.stat().st_mode) == 0o640
        assert len(numbers(real)) == 2

    def test_a_full_disk_is_told_and_leaves_whole_lines(self) -> None:
        if not os.path.exists("/dev/full"):
            pytest.skip("no /dev/full")
        with pytest.raises(OSError, match="No space"), open_output("/dev/full") as output:
            output.write(result(lines(1)[0]))

    def test_a_folder_that_is_not_there_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(BadSettings, match="can't be written: No such file or directory"):
            open_output(str(tmp_path / "nowhere" / "out"))
        with pytest.raises(BadSettings, match="can't be written: Is a directory"):
            open_output(str(tmp_path))
