from __future__ import annotations

import time
import uuid

import pytest

from pipeline.ask.question import new_question
from pipeline.errors import BadQuestion
from pipeline.settings import Settings
from pipeline.types import AskOptions

SETTINGS = Settings(ask_timeout=12, top_k=7, parents=True, max_question_chars=20)


def test_a_question_has_an_id_of_its_own_and_a_deadline() -> None:
    before = time.time()
    one, other = new_question("What?", SETTINGS), new_question("What?", SETTINGS)
    assert one.id != other.id
    assert uuid.UUID(one.id).version == 4
    assert before <= one.submitted_at <= time.time()
    assert one.deadline - one.submitted_at == pytest.approx(12)


def test_the_callers_time_and_options_win_over_the_settings() -> None:
    assert new_question("What?", SETTINGS).options == AskOptions(top_k=7, parents=True)
    chosen = new_question("What?", SETTINGS, timeout=3, options=AskOptions(top_k=2), kb="docs", tenant="acme")
    assert chosen.deadline - chosen.submitted_at == pytest.approx(3)
    assert (chosen.options.top_k, chosen.options.parents, chosen.kb, chosen.tenant) == (2, False, "docs", "acme")


def test_no_time_at_all_is_not_the_default_time() -> None:
    question = new_question("What?", SETTINGS, timeout=0)
    assert question.deadline == question.submitted_at


@pytest.mark.parametrize("text", ["", "x" * 21, "nul \x00"])
def test_what_the_guard_would_refuse_never_becomes_a_question(text: str) -> None:
    with pytest.raises(BadQuestion):
        new_question(text, SETTINGS)
