"""What crosses a stage is the same after a trip through JSON, whichever value it is."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
import random
import types
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

import pipeline
from pipeline.seams import EmbeddedPart, Embeddings
from pipeline.types import AskOptions, AskState, Question, StoredChunk, Value, pack_vector, unpack_vector

AWKWARD = [
    "",
    "plain",
    "Größe 🧨👩‍👩‍👧‍👦",
    'quotes " and \\ and {braces}',
    "two\nlines\tand\r\n",
    "\u2028\u202e",
    "x" * 5000,
]
NEVER_SENT = {EmbeddedPart, Embeddings}
"""Values that hold arrays: they stay inside a process."""


def _values() -> list[type[Value]]:
    for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
        if "migrations" not in module.name:
            importlib.import_module(module.name)
    found, pending = [], [Value]
    while pending:
        pending += (children := pending.pop().__subclasses__())
        found += children
    return sorted(set(found) - NEVER_SENT, key=lambda kind: (kind.__module__, kind.__name__))


def sample(kind: Any, chance: random.Random) -> Any:
    """A value of this type; an unknown type is a failure, so that a new kind of field can't go untested."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return sample(chance.choice(inner), chance)
    if origin is Literal:
        return chance.choice(inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return tuple(sample(inner[0], chance) for _ in range(chance.randrange(3)))
    if origin is tuple:
        return tuple(sample(each, chance) for each in inner)
    if origin is dict:
        return {sample(inner[0], chance): sample(inner[1], chance) for _ in range(chance.randrange(3))}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind(**{name: _field(field, chance) for name, field in kind.model_fields.items()})
    return _PLAIN[kind](chance)


def _field(field: FieldInfo, chance: random.Random) -> Any:
    bounds = {name: getattr(rule, name) for rule in field.metadata for name in ("ge", "le") if hasattr(rule, name)}
    found = sample(field.annotation, chance)
    if isinstance(found, int | float) and bounds:
        return type(found)(min(max(found, bounds["ge"]), bounds["le"]))
    return found


_PLAIN: dict[Any, Any] = {
    str: lambda chance: chance.choice(AWKWARD),
    int: lambda chance: chance.choice([0, 1, -7, 2**40]),
    float: lambda chance: chance.choice([0.0, 1.0, 1 / 3, 1e-12, 1790000000.123456]),
    bool: lambda chance: chance.choice([True, False]),
    type(None): lambda _chance: None,
    datetime: lambda chance: datetime(2026, 1, 2, tzinfo=UTC) + timedelta(microseconds=chance.randrange(10**12)),
    Any: lambda chance: chance.choice([None, 1, "two", [3.5], {"four": [None]}]),
}


@pytest.mark.parametrize("kind", _values(), ids=lambda kind: kind.__name__)
def test_every_value_survives_json(kind: type[Value]) -> None:
    chance = random.Random(kind.__name__)
    for _ in range(25):
        value = sample(kind, chance)
        sent = json.dumps(value.encode())
        assert kind.decode(json.loads(sent)) == value


@pytest.mark.parametrize("kind", _values(), ids=lambda kind: kind.__name__)
def test_every_value_is_frozen_and_refuses_what_it_does_not_know(kind: type[Value]) -> None:
    value = sample(kind, random.Random(1))
    with pytest.raises(ValidationError):
        setattr(value, next(iter(kind.model_fields)), None)
    with pytest.raises(ValidationError):
        kind.decode({**value.encode(), "unheard_of": 1})


def test_defaults_do_not_ride_in_messages() -> None:
    question = Question(id="q", text="What?", submitted_at=1.0, deadline=2.0)
    assert AskState(question=question).encode() == {
        "question": {"id": "q", "text": "What?", "submitted_at": 1.0, "deadline": 2.0}
    }


@pytest.mark.parametrize("dimensions", [1, 256, 4000])
def test_a_vector_is_the_same_to_the_bit_after_packing(dimensions: int) -> None:
    vector = np.random.default_rng(dimensions).standard_normal(dimensions).astype(np.float32)
    packed = pack_vector(vector)
    assert len(packed) == 4 * math.ceil(4 * dimensions / 3)
    assert np.array_equal(unpack_vector(json.loads(json.dumps(packed))), vector)


def test_a_vector_unpacks_to_numbers_that_can_be_changed() -> None:
    """A view of the message's bytes could not: adapters normalise in place."""
    unpacked = unpack_vector(pack_vector(np.ones(3, dtype=np.float32)))
    unpacked /= 2
    assert unpacked.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    "options", [{"top_k": 0}, {"top_k": 101}, {"alpha": 1.1}, {"min_score": -0.1}, {"fusion": "best"}, {"topk": 3}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AskOptions.decode(options)


def test_title_and_section_go_before_what_is_embedded_but_not_into_what_is_quoted() -> None:
    chunk = StoredChunk(id="c", document_id="d", generation=1, context="", text="body", embed_hash="")
    assert chunk.indexed_text == "body"
    assert chunk._replace(context="Title > Part").indexed_text == "Title > Part\nbody"
