"""A question that is over, asked again: with which options, and from which stage on.

What a stage needs is there only where somebody kept it. A dead letter holds the state that the failed stage was given.
The row of an answered question holds the passages that ``generate`` was given, but no vector and no candidates: those
would make every row ten times as large, for what takes some milliseconds and one embedding to make again. So whatever
lies before ``generate`` begins at ``guard``. The same goes for what has become stale: passages whose document has
changed, an index that another one has replaced, and whatever was found in a degraded way.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pydantic import ValidationError

from pipeline.ask.flow import STAGES
from pipeline.ask.question import new_question
from pipeline.caching.caches import for_others
from pipeline.errors import BadSettings, CeleriacError, Conflict
from pipeline.types import AskOptions, AskState, Degradation, KnowledgeBase, Question, QuestionRecord, Replay, Usage
from pipeline.wiring import Parts

# The first stage that an option changes something for. What a row holds of its passages is widened already. A replay
# takes neither `bulk` nor `cache`: somebody waits for it, and it is given nothing from a cache.
_READ_BY: Mapping[str, str] = {
    "alpha": "embed",
    "top_k": "search",
    "fusion": "search",
    "min_score": "enrich",
    "parents": "rerank",
    "model": "generate",
    "reasoning_effort": "generate",
    "verbosity": "generate",
    "strict": "generate",  # by each stage, to the last
}


class Beginning(NamedTuple):
    """Where a replay begins and with what; ``reason``: why it isn't where it was asked for."""

    stage: str
    state: AskState
    reason: str = ""

    @property
    def question(self) -> Question:
        """The new question."""
        return self.state.question


def changed(options: AskOptions, given: Sequence[str], *, first_stage: str) -> AskOptions:
    """The options with changes such as ``top_k=8``; ``top_k=`` sets the default. Raises BadSettings for what is no
    option, no value, or read only by a stage before ``first_stage``.
    """
    values = options.model_dump()
    for name, value in map(_split, given):
        if STAGES.index(_READ_BY[name]) < STAGES.index(first_stage):
            hint = f"Replay from {_READ_BY[name]} or an earlier stage."
            raise BadSettings(f"From {first_stage} on, {name} changes nothing.", hint)
        values[name] = value or AskOptions.model_fields[name].default
    try:
        return AskOptions.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadSettings(
            f"{first['loc'][0]}={first['input']}: {first['msg']}.", "See `manage.py ask --help`."
        ) from None


def require_stage(name: str) -> str:
    """The name of a stage; raises BadSettings with the nearest one."""
    return _known(name, STAGES, "a stage")


def asked_again(record: QuestionRecord, parts: Parts, options: AskOptions | None, timeout: float | None) -> Question:
    """A new question with the words of an earlier one, and its options unless others are given."""
    old = record.question
    options = (old.options if options is None else options).model_copy(update={"bulk": False})  # somebody waits now
    new = new_question(old.text, parts.settings, kb=old.kb, tenant=old.tenant, options=options, timeout=timeout)
    return new.model_copy(update={"replay": Replay(of=old.id, stage=STAGES[0]), "turn": old.turn})


def from_letter(question: Question, stage: str, state: AskState, parts: Parts) -> Beginning:
    """``question`` from the stage of a dead letter on, which holds ``state``."""
    if stage == STAGES[0] or state.kb is None:
        return _from_the_start(question)
    chunks = [hit.chunk_id for hit in state.hits] + [passage.chunk_id for passage in state.passages]
    kb, reason = _as_before(question, state.kb, chunks, state.degraded, parts)
    if kb is None:
        return _from_the_start(question, reason)
    answer = None if state.answer is None else for_others(state.answer).model_copy(update={"question_id": question.id})
    # What comes of it is for nobody else: the keys of its note are of the options before, what was found is of then.
    return _from(stage, question, state.but(kb=kb, answer=answer, cache=None, timings=(), spent=Usage(cost_usd=0.0)))


def from_row(question: Question, record: QuestionRecord, stage: str, parts: Parts) -> Beginning:
    """``question`` from ``stage`` on, or from the beginning, with what the row of an earlier one holds.

    Raises Conflict where it can't begin there.
    """
    if stage == "record":
        raise Conflict("An answer is not recorded a second time.", "Replay from generate or an earlier stage.")
    if stage != "generate":
        reason = "" if stage == STAGES[0] else "its row holds no vector and no candidates"
        return _from_the_start(question, reason)
    if not record.passages:
        raise Conflict("It has no passages to answer from.", "Replay from search or an earlier stage.")
    kb, reason = _as_before(question, None, [p.chunk_id for p in record.passages], record.degraded, parts)
    if kb is None:
        return _from_the_start(question, reason)
    asked = tuple(flag for flag in record.flags if flag.where in ("question", "rewritten question"))
    state = AskState(question=question, kb=kb, flags=asked, standalone=record.standalone, passages=record.passages)
    return _from(stage, question, state)


def _from_the_start(question: Question, reason: str = "") -> Beginning:
    return _from(STAGES[0], question, AskState(question=question), reason)


def _from(stage: str, question: Question, state: AskState, reason: str = "") -> Beginning:
    origin = question.replay and question.replay.model_copy(update={"stage": stage})
    return Beginning(stage, state.but(question=question.model_copy(update={"replay": origin})), reason)


def _as_before(
    question: Question,
    before: KnowledgeBase | None,
    chunks: Iterable[str],
    degraded: Sequence[Degradation],
    parts: Parts,
) -> tuple[KnowledgeBase | None, str]:
    """The knowledge base, if what was found in it then can be answered from now; else None and why not."""
    try:
        kb = parts.knowledge_bases.find(question.tenant, question.kb)
    except CeleriacError:
        return None, "its knowledge base is gone"
    if before is not None and kb.index != before.index:
        return None, "its knowledge base has another index now"
    if any(loss.stage != "generate" for loss in degraded):
        return None, "retrieval was degraded"
    wanted = set(chunks)
    if wanted and len(parts.passages.live(kb.id, sorted(wanted))) < len(wanted):
        return None, "documents have changed since"
    return kb, ""


def _split(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals:
        raise BadSettings(f"{given!r} sets nothing.", "Write it as name=value.")
    return _known(name.strip().replace("-", "_"), _READ_BY, "an option"), value.strip()


def _known(name: str, names: Iterable[str], what: str) -> str:
    if name in (known := list(names)):
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There is {', '.join(known)}."
    raise BadSettings(f"{name!r} is not {what}.", hint)
