"""Reading the questions of a batch."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pipeline.batch.inspection import inspect
from pipeline.batch.lines import Line, open_questions
from pipeline.errors import BadSettings


def read(folder: Path, name: str, content: str | bytes) -> list[Line]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with open_questions(str(path)) as questions:
        assert list(questions) == list(questions), "it can be read again"
        return list(questions)


def refusal(folder: Path, name: str, content: str | bytes) -> str:
    """What is said of a file, without its folder."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadSettings) as refused, open_questions(str(path)) as questions:
        inspect(questions, questions.name)
    return str(refused.value).replace(f"{folder}/", "")


class TestText:
    def test_each_line_is_a_question_and_blank_ones_are_none(self, tmp_path: Path) -> None:
        found = read(tmp_path, "q.txt", "\ufeffWho?\r\n\n  \nWhy, ö?  \nlast")
        assert found == [Line(1, "Who?"), Line(4, "Why, ö?"), Line(5, "last")]

    def test_a_wrong_encoding_is_told_with_its_line(self, tmp_path: Path) -> None:
        said = refusal(tmp_path, "q.txt", "Who?\nWarum Käse?".encode("latin-1"))
        assert said == "q.txt, line 2: it is not UTF-8 (byte 8). Convert it to UTF-8 first."

    def test_a_line_without_end_is_refused(self, tmp_path: Path) -> None:
        assert "line 2: it is longer than 1,000,000 bytes" in refusal(tmp_path, "q.txt", b"Who?\n" + b"x" * 1_000_001)

    @pytest.mark.parametrize("content", ["", "\n \n"])
    def test_a_file_without_a_question_is_refused(self, content: str, tmp_path: Path) -> None:
        assert refusal(tmp_path, "q.txt", content) == "q.txt holds no question."


class TestCsv:
    def test_columns_are_options_or_carried_through(self, tmp_path: Path) -> None:
        text = 'note,question,id,kb,top_k,parents,alpha\n"a\nb",Who?,x,docs,3,true,\n\n,Why?,,,,,0.5\nc,short row\n'
        first, second, third = read(tmp_path, "q.csv", text)
        assert first == Line(2, "Who?", "x", "docs", {"top_k": 3, "parents": True}, {"note": "a\nb"})
        assert second == Line(5, "Why?", "", "", {"alpha": 0.5}, {"note": ""})
        assert third == Line(6, "short row", extra={"note": "c"})

    @pytest.mark.parametrize("delimiter", [";", "\t", "|"])
    def test_the_header_tells_the_delimiter(self, delimiter: str, tmp_path: Path) -> None:
        found = read(tmp_path, "q.csv", f"id{delimiter}question\n1{delimiter}Who, and why?\n")
        assert found == [Line(2, "Who, and why?", "1")]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("text,id\nWho?,1\n", "line 1: no column is called question"),
            ("question,a,a\nWho?,1,2\n", "line 1: two columns have the same name"),
            ("question,id\nWho?,1,2\n", "line 2: it has 3 fields, and there are 2 columns"),
            ('question,id\nWho?,1\n"Why?,2\n', "line 3: it is not CSV: unexpected end of data"),
            ("question,id\nWho?,1\n,2\n", "line 3: the question is empty"),
            ("question,top_k\nWho?,many\n", "line 2: top_k: input should be a valid integer"),
            ("question,fusion\nWho?,none\n", "line 2: fusion: input should be 'scores' or 'rrf'"),
        ],
    )
    def test_what_is_wrong_is_told_with_its_line(self, content: str, said: str, tmp_path: Path) -> None:
        assert f"q.csv, {said}" in refusal(tmp_path, "q.csv", content)


class TestJsonLines:
    def test_a_line_is_an_object_or_the_question_itself(self, tmp_path: Path) -> None:
        text = '{"question": "Who?", "id": 7, "model": "m", "tags": ["a"]}\n\n"Why?"\n'
        assert read(tmp_path, "q.jsonl", text) == [
            Line(1, "Who?", "7", "", {"model": "m"}, {"tags": ["a"]}),
            Line(3, "Why?"),
        ]

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ('{"question": ', "it is not JSON: Expecting value (column 13)"),
            ('{"q": "Who?"}', 'it has no "question"'),
            ('["Who?"]', "it is JSON, but no object"),
            ('{"question": 3}', "question is no text"),
            ('{"question": " "}', "the question is empty"),
            ('""', "the question is empty"),
            ('{"question": "Who?", "kb": 3}', "kb is no text"),
            ('{"question": "Who?", "score": NaN}', "it can't be taken: NaN is not JSON"),
            ('{"question": "\\ud800"}', "it can't be taken: "),
            ("[" * 100_000, "it can't be taken: "),
        ],
    )
    def test_what_is_wrong_is_told_with_its_line(self, line: str, said: str, tmp_path: Path) -> None:
        assert f"q.jsonl, line 2: {said}" in refusal(tmp_path, "q.jsonl", f'"Who?"\n{line}\n')


class TestIds:
    def test_two_questions_of_one_id_are_refused(self, tmp_path: Path) -> None:
        said = refusal(tmp_path, "q.csv", "id,question\na,Who?\nb,Why?\na,How?\n")
        assert said.startswith("q.csv, line 4: the id 'a' is that of line 2 too.")

    def test_what_lines_name_is_found_with_the_first_such_line(self, tmp_path: Path) -> None:
        path = tmp_path / "q.csv"
        path.write_text("kb,model,question\n,,a\ndocs,m,b\ndocs,,c\n")
        with open_questions(str(path)) as questions:
            assert inspect(questions, "q") == (3, {"": 2, "docs": 3}, {"": 2, "m": 3})


class TestOpening:
    def test_what_can_be_read_only_once_is_copied(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_text, args=("Who?\nWhy?\n",))
        writer.start()
        with open_questions(str(pipe)) as questions:
            assert [len(list(questions)) for _ in range(2)] == [2, 2]
        writer.join()

    @pytest.mark.parametrize(
        ("name", "kind", "said"),
        [
            ("missing.txt", "", "No such file or directory"),
            (".", "", "Is a directory"),
            ("a\0b", "", "embedded null byte"),
            ("q.txt", "xml", "There is no format 'xml'."),
            ("q.json", "", "a batch takes JSON lines"),
        ],
    )
    def test_what_cannot_be_opened_is_one_line(self, name: str, kind: str, said: str, tmp_path: Path) -> None:
        with pytest.raises(BadSettings, match=said):
            open_questions(str(tmp_path / name), kind)
