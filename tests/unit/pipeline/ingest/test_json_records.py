from __future__ import annotations

import io
import json
import random

import pytest

from pipeline.fields import ID_NAMES, field
from pipeline.ingest.json_ids import own_ids
from pipeline.ingest.json_list import elements


def pieces(text: str) -> list[str]:
    data = text.encode()
    return [data[start : start + length].decode() for start, length in elements(io.BytesIO(data))]


def parsed_id(data: bytes, names: tuple[str, ...]) -> str:
    """What a parser that reads everything finds."""
    record = json.loads(data)
    values = [record.get(name) for name in names]
    usable = [v for v in values if isinstance(v, (str, int)) and not isinstance(v, bool) and str(v).strip()]
    return str(usable[0]).strip() if usable else ""


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ('{"id": 7}', "7"),
        ('{"id":"a b"}', "a b"),
        ('{"text": "x", "id": "late"}', "late"),
        ('{"_id": "first", "id": "wins"}', "wins"),
        ('{"meta": {"id": "inner"}, "id": "outer"}', "outer"),
        ('{"meta": {"id": "inner"}}', ""),
        ('{"id": "  "}', ""),
        ('{"id": true, "uuid": "u"}', "u"),
        ('{"id": 1.5}', ""),
        ('{"id": "\\u00e9\\n"}', "é"),
        ('{"id": "ü"}', "ü"),
        ('{"\\u0069d": "spelled"}', "spelled"),
        ('{"id": -0, "x": 1}', "0"),
        ('{"id": 007}', ""),
        ('{"text": "an id"}', ""),
        ("nonsense", ""),
        ('["id"]', ""),
    ],
)
def test_the_own_id_of_a_record_is_found(text: str, own: str) -> None:
    assert own_ids(ID_NAMES)(text.encode()) == own


def test_the_short_cut_agrees_with_the_parser() -> None:
    dice = random.Random(1)
    values = [7, -3, "a", " b ", "", None, True, 1.5, 'x\\"', "é", {"id": 3}, ["id"]]
    find = own_ids(ID_NAMES)
    for _ in range(3000):
        keys = dice.sample([*ID_NAMES, "text", "title"], dice.randint(1, 5))
        data = json.dumps({key: dice.choice(values) for key in keys}, ensure_ascii=dice.random() < 0.5).encode()
        assert find(data) == parsed_id(data, ID_NAMES), data


def test_an_id_may_lie_at_a_dotted_path() -> None:
    assert own_ids(("meta.sku",))(b'{"id": 1, "meta": {"sku": "x"}}') == "x"
    assert own_ids(("meta.sku",))(b'{"meta.sku": "y", "meta": {"sku": "x"}}') == "y"


def test_dotted_paths_go_through_names_that_hold_dots() -> None:
    assert field({"a.b": {"c": 1}, "a": {"b": 2}}, "a.b.c") == 1
    assert field({"a": 1}, "a.b") is None


@pytest.mark.parametrize("indent", [None, 2])
def test_elements_of_any_kind_are_found(indent: int | None) -> None:
    values = [{"id": 1}, 12, -1.5e3, 'a,]"}', None, True, [1, [2]], {}, [], {"deep": {"er": ["]"]}}]
    assert [json.loads(piece) for piece in pieces(json.dumps(values, indent=indent))] == values


def test_elements_are_found_across_windows_of_reading() -> None:
    dice = random.Random(2)
    values = [{"n": n, "t": 'x"\\ü[{' * dice.randint(0, 30_000)} for n in range(40)]
    values += list(range(60_000))  # type: ignore[arg-type]
    assert [json.loads(piece) for piece in pieces(json.dumps(values, ensure_ascii=False))] == values


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ('[{"id": 1}] nonsense', ["] nonsense"]),
        ('[{"id": 1}, nonsense', [" nonsense".strip(), ""]),
        ('[{"id": 1}, nonsense]', ["nonsense"]),
        ('[{"id": 1}] [{"id": 2}]', ['] [{"id": 2}]']),
        ('[{"id": 1}', [""]),
        ('[{"id": 1}, {"id": 2', ['{"id": 2']),
        ('[{"id": 1}, {"id": 2, "t": "cut o', ['{"id": 2, "t": "cut o']),
        ('[{"id": 1} x {"id": 2}]', ['x {"id": 2}']),
        ('[{"id": 1}, {"id": 2}}]', ["}"]),
        ('[{"id": 1}}', ["}", ""]),
    ],
)
def test_what_is_no_json_comes_as_an_element_that_no_parser_takes(text: str, reported: list[str]) -> None:
    found = pieces(text)
    assert found[0] == '{"id": 1}'
    broken = []
    for piece in found:
        try:
            json.loads(piece)
        except ValueError:
            broken.append(piece)
    assert broken == reported


def test_white_space_after_the_list_is_nothing() -> None:
    assert pieces('[{"id": 1}]\n \t\n') == ['{"id": 1}']
