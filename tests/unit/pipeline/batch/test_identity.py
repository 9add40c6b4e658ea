"""Which question of a batch is the same one."""

from __future__ import annotations

import uuid

from pipeline.batch.identity import Terms, question_id
from pipeline.batch.lines import Line
from pipeline.types import AskOptions

TERMS = Terms(kb="docs", options=AskOptions(top_k=3))
BATCH = "0b8e3f0e-6d0c-4f3a-9a55-1d2f6a9d1a11"


class TestKeys:
    def test_a_line_has_the_same_key_in_every_process(self) -> None:
        assert TERMS.key_of(Line(1, "Who?")) == "7a9413b4-d990-5c95-8d8d-bd721d044a44"

    def test_its_number_counts_only_where_it_has_no_id(self) -> None:
        assert TERMS.key_of(Line(1, "Who?")) != TERMS.key_of(Line(2, "Who?"))
        assert TERMS.key_of(Line(1, "Who?", "a")) == TERMS.key_of(Line(2, "Who?", "a"))

    def test_what_it_carries_through_does_not_count(self) -> None:
        assert TERMS.key_of(Line(1, "Who?", extra={"a": 1})) == TERMS.key_of(Line(1, "Who?"))

    def test_another_text_or_option_is_another_question(self) -> None:
        line = Line(1, "Who?")
        others = [
            TERMS.key_of(Line(1, "Why?")),
            TERMS.key_of(Line(1, "Who?", options={"top_k": 4})),
            TERMS.key_of(Line(1, "Who?", kb="other")),
            TERMS.model_copy(update={"tenant": "other"}).key_of(line),
            Terms(kb="docs").key_of(line),
        ]
        assert len({TERMS.key_of(line), *others}) == 6

    def test_an_option_of_the_line_wins(self) -> None:
        line = Line(1, "Who?", kb="own", options={"top_k": 9, "alpha": 0.5})
        assert TERMS.kb_of(line) == "own"
        assert TERMS.options_of(line) == AskOptions(top_k=9, alpha=0.5)


def test_each_attempt_of_each_batch_has_an_id_of_its_own() -> None:
    key = TERMS.key_of(Line(1, "Who?"))
    ids = {question_id(batch, key, attempt) for batch in (BATCH, str(uuid.uuid4())) for attempt in (1, 2)}
    assert len(ids) == 4
    assert question_id(BATCH, key, 1) == question_id(BATCH, key, 1)
