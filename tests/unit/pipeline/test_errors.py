from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pipeline import errors
from pipeline.errors import CeleriacError, InternalFault, RateLimited, from_json, wrap


def _all(root: type[CeleriacError]) -> list[type[CeleriacError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in _all(child))]


KINDS = [kind for kind in _all(CeleriacError) if kind.__module__ == errors.__name__]
ARGUMENTS: list[tuple[Any, ...]] = [
    (),
    ("It broke.",),
    ("It broke.", "Mend it."),
    ("Größe 🧨 “x”", "Mend it.", {"upstream": "openai", "status": 503, "retry_after": 1.5, "more": [1, None]}),
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=len)
@pytest.mark.parametrize("kind", KINDS)
def test_every_error_rebuilds_from_its_arguments(kind: type[CeleriacError], arguments: tuple[Any, ...]) -> None:
    """Celery's result backend does ``type(e)(*e.args)`` with what is left of ``args`` after JSON."""
    error = kind(*arguments)
    for again in (
        kind(*error.args),
        kind(*json.loads(json.dumps(error.args))),
        pickle.loads(pickle.dumps(error)),
        copy.copy(error),
    ):
        assert type(again) is kind
        assert again.args == error.args


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=len)
@pytest.mark.parametrize("kind", KINDS)
def test_every_error_survives_its_json(kind: type[CeleriacError], arguments: tuple[Any, ...]) -> None:
    """Rows and events carry errors in this form."""
    error = kind(*arguments)
    for again in (from_json(error.to_json()), from_json(json.loads(json.dumps(error.to_json())))):
        assert type(again) is kind
        assert (again.message, again.hint, again.detail, str(again)) == (
            error.message,
            error.hint,
            error.detail,
            str(error),
        )


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_reads_as_one_line_with_what_to_do(kind: type[CeleriacError]) -> None:
    assert str(kind("It broke.")) == f"It broke. {kind.default_hint}".strip()
    assert str(kind("It broke.", "Mend it.")) == "It broke. Mend it."
    assert "\n" not in kind.default_hint


@pytest.mark.parametrize("kind", KINDS)
def test_its_json_says_its_name_and_whether_to_try_again(kind: type[CeleriacError]) -> None:
    told = kind("It broke.").to_json()
    assert (told["code"], told["retryable"]) == (kind.__name__, kind.retryable)


def test_only_what_can_pass_by_itself_is_worth_another_try() -> None:
    assert {kind.__name__ for kind in KINDS if kind.retryable} == {
        "Unreachable",
        "Unavailable",
        "TimedOut",
        "RateLimited",
        "Postponed",
        "ServerFault",
        "Busy",
    }


def test_what_the_caller_can_mend_ends_a_command_with_2_what_was_cancelled_with_4_and_all_else_with_1() -> None:
    others = [kind for kind in KINDS if not issubclass(kind, errors.InputError | errors.Cancelled)]
    assert {kind.exit_status for kind in KINDS if issubclass(kind, errors.InputError)} == {2}
    assert errors.Cancelled.exit_status == 4
    assert {kind.exit_status for kind in others} == {1}


def test_an_error_of_a_newer_version_is_still_told() -> None:
    error = from_json({"code": "NotYetInvented", "message": "It broke.", "hint": "Mend it.", "detail": {"a": 1}})
    assert type(error) is InternalFault
    assert (error.message, error.hint, error.detail) == ("It broke.", "Mend it.", {"a": 1})


def test_an_error_of_ours_is_wrapped_as_it_is() -> None:
    error = errors.NotFound("It isn't there.")
    assert wrap(error) is error


def _validation_error() -> ValidationError:
    class Model(BaseModel):
        number: int

    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"number": "x"})
    return caught.value


@pytest.mark.parametrize("foreign", [KeyError("x"), ValueError("two\nlines"), OSError(2, "gone"), _validation_error()])
def test_any_other_error_becomes_a_defect_told_in_one_line(foreign: Exception) -> None:
    error = wrap(foreign)
    assert type(error) is InternalFault
    assert type(foreign).__name__ in error.message
    assert len(str(error).splitlines()) == 1


def test_a_defect_can_be_stored_whatever_its_text_holds() -> None:
    """Postgres takes no NUL and no half of a surrogate pair, neither in text nor in JSON."""
    error = wrap(ValueError("nul \x00 half \ud83d" + 1000 * "x"))
    assert "\\u0000" not in json.dumps(error.to_json())
    assert error.message.encode("utf-8")
    assert len(error.message) <= 500


@pytest.mark.parametrize(("detail", "seconds"), [({}, None), ({"retry_after": 0}, 0.0), ({"retry_after": 2.5}, 2.5)])
def test_how_long_to_wait_is_what_the_service_said(detail: dict[str, Any], seconds: float | None) -> None:
    assert RateLimited("Slow down.", "", detail).retry_after == seconds
