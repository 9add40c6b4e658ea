"""What ``status`` shows of the newest questions."""

from __future__ import annotations

import time
import uuid

import pytest

from pipeline.errors import DeadlineExceeded, RateLimited
from pipeline.types import Answer, Degradation, Question, RecentQuestions, Usage
from pipeline.wiring import Parts

A_WHILE_AGO = 100_000.0
"""So long ago, in seconds, that no other test's questions are that old."""


@pytest.fixture
def before(parts: Parts) -> RecentQuestions:
    return seen(parts)


def seen(parts: Parts) -> RecentQuestions:
    return parts.recent.questions(A_WHILE_AGO + 500)


def submitted(parts: Parts, age: float = A_WHILE_AGO, **changes: object) -> Question:
    at = time.time() - age
    asked = Question(id=str(uuid.uuid4()), text="Why?", tenant="lately", submitted_at=at, deadline=at + 60)
    asked = asked.model_copy(update=changes)
    parts.questions.submit(asked)
    return asked


def finish(parts: Parts, asked: Question, *degraded: Degradation, tokens: int = 0, usd: float | None = None) -> None:
    usage = Usage(input_tokens=tokens, output_tokens=1, embedding_tokens=1, cost_usd=usd)
    answer = Answer(
        question_id=asked.id, outcome="answered", mode="generated", text="So.", degraded=degraded, usage=usage
    )
    assert parts.questions.finish(answer, kb_id=str(uuid.uuid4()), epoch=0)


def test_ends_are_counted_by_kind(parts: Parts, before: RecentQuestions) -> None:
    finish(parts, submitted(parts), tokens=10, usd=0.25)
    submitted(parts, tenant="another, " * 3)
    parts.questions.cancel(submitted(parts).id)
    for error in (RateLimited("Full."), RateLimited("Full."), DeadlineExceeded("Late.")):
        assert parts.questions.fail(submitted(parts).id, error, epoch=0)
    after = seen(parts)
    assert after.asked - before.asked == 6
    assert (after.done - before.done, after.open - before.open, after.cancelled - before.cancelled) == (1, 1, 1)
    for code, count in {"RateLimited": 2, "DeadlineExceeded": 1}.items():
        assert after.failed[code] - before.failed.get(code, 0) == count
    assert after.tokens - before.tokens == 12
    assert after.cost_usd - before.cost_usd == pytest.approx(0.25)


def test_a_lesser_answer_counts_once_for_each_thing_it_did_without(parts: Parts, before: RecentQuestions) -> None:
    twice = [Degradation(mode="keyword_only", stage=stage, reason="It is down.") for stage in ("embed", "search")]
    finish(parts, submitted(parts), *twice, Degradation(mode="extractive", stage="generate", reason="It is down."))
    finish(parts, submitted(parts))
    after = seen(parts)
    assert {mode: count - before.degraded.get(mode, 0) for mode, count in after.degraded.items()} == {
        **dict.fromkeys(before.degraded, 0),
        "keyword_only": 1,
        "extractive": 1,
    }


def test_what_is_older_is_not_seen(parts: Parts, before: RecentQuestions) -> None:
    finish(parts, submitted(parts, age=A_WHILE_AGO + 1000))
    assert seen(parts).asked == before.asked


def test_times_are_those_of_whole_answers(parts: Parts) -> None:
    asked = submitted(parts, age=A_WHILE_AGO - 1000)
    finish(parts, asked)
    recent = seen(parts)
    assert recent.p50_seconds is not None
    assert recent.p95_seconds is not None
    assert 0 <= recent.p50_seconds <= recent.p95_seconds
