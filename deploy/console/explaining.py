"""``explain``: why a question took so long, cost so much and was answered, or not, as it was."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import typer

from deploy.console.asking import place
from deploy.console.context import current_parts
from deploy.console.ids import QuestionId, find_question
from deploy.console.output import Json, note, room_beside, say, say_json, say_table
from deploy.console.waterfall import WIDTH, Bar, bars, drawn
from pipeline.errors import CeleriacError, from_json
from pipeline.types import DeadLetter, Passage, QuestionRecord, StageTiming
from pipeline.wiring import Parts

_MOST_CANDIDATES = 10


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(explain)


def explain(question_id: QuestionId, as_json: Json = False) -> None:
    """Where the time of a question went, what it was answered from, what was degraded, what it cost, how it ended."""
    parts = current_parts()
    record = parts.questions.find(find_question(parts, question_id))
    letter = parts.dead_letters.find(record.question.id)
    facts = explanation(
        record,
        replays=parts.questions.replays(record.question.id),
        letter=letter,
        retrieved=_retrieved(parts, record, letter),
        now=time.time(),
    )
    if as_json:
        say_json(facts)
        return
    for name, value in _headings(facts).items():
        say(f"{name:<10} {value}")
    _say_stages(facts)
    _say_retrieved(facts["retrieved"])
    _say_doubts(facts)


def explanation(
    record: QuestionRecord,
    *,
    replays: Sequence[str] = (),
    letter: DeadLetter | None = None,
    retrieved: Sequence[Passage] = (),
    now: float,
) -> dict[str, Any]:
    """All that is known of a question. Times are milliseconds, counted from its submission."""
    asked, answer = record.question, record.answer
    took = ((record.finished_at or now) - asked.submitted_at) * 1000
    allowed = (asked.deadline - asked.submitted_at) * 1000
    known = sum(timing.queue_ms + timing.run_ms for timing in record.timings)
    # What an earlier submission did before it was lost has left no trace but the time it took.
    lost = max(0.0, took - known) if asked.epoch else 0.0
    cited = {citation.chunk_id for citation in answer.citations} if answer else set()
    return {
        "id": asked.id,
        "status": record.status,
        "outcome": answer.outcome if answer else None,
        "mode": answer.mode if answer else None,
        "error": record.error,
        "question": asked.text,
        "standalone": record.standalone,
        "conversation": asked.turn,
        "tenant": asked.tenant,
        "kb": asked.kb,
        "options": asked.options,
        "submitted_at": datetime.fromtimestamp(asked.submitted_at, UTC),
        "took_ms": took,
        "deadline_ms": allowed,
        "deadline_used": took / allowed if allowed > 0 else 1.0,
        "sent_again": asked.epoch,
        "lost_ms": lost,
        "replay_of": asked.replay,
        "replays": list(replays),
        "dead_letter": letter
        and letter.model_dump(include={"stage", "attempts", "worker", "failed_at", "replayed_as"}),
        "stages": [_stage(bar) for bar in bars(_to_the_end(record, took - lost - known), lost)],
        "retrieved": [_place_of(passage) | {"cited": passage.chunk_id in cited} for passage in retrieved],
        "degraded": list(record.degraded),
        "flags": list(record.flags),
        "usage": record.usage,
    }


def _to_the_end(record: QuestionRecord, rest_ms: float) -> tuple[StageTiming, ...]:
    """The timings, with the rest of the time for ``record``: its own run can't be in the row that it writes."""
    if record.status != "done" or not record.timings:
        return record.timings
    *earlier, last = record.timings
    return (*earlier, last.model_copy(update={"run_ms": last.run_ms + max(0.0, rest_ms)}))


def _stage(bar: Bar) -> dict[str, Any]:
    return {"start_ms": bar.start_ms, **bar.timing.model_dump()}


def _place_of(passage: Passage) -> dict[str, Any]:
    return passage.model_dump(exclude={"text"}) | {"place": place(passage)}


def _retrieved(parts: Parts, record: QuestionRecord, letter: DeadLetter | None) -> tuple[Passage, ...]:
    """The passages, or, of a question that failed before it had any, the best candidates that still are there."""
    if record.passages or letter is None or record.kb_id is None:
        return record.passages
    try:
        _, state = parts.dead_letters.state(record.question.id)
    except CeleriacError:
        return ()
    hits = state.hits[:_MOST_CANDIDATES]
    places = parts.passages.live(record.kb_id, [hit.chunk_id for hit in hits])
    scores = {hit.chunk_id: hit.model_dump(exclude={"chunk_id"}) for hit in hits}
    return tuple(places[name].model_copy(update=score) for name, score in scores.items() if name in places)


def _headings(facts: dict[str, Any]) -> dict[str, str]:
    replay, options, turn = facts["replay_of"], facts["options"].encode(), facts["conversation"]
    found = {
        "question": " ".join(facts["question"].split())[:300],
        "looked for": " ".join(facts["standalone"].split()),
        "id": facts["id"],
        "part of": f"conversation {turn.conversation}, turn {turn.number}" if turn else "",
        "asked": f"{facts['submitted_at']:%Y-%m-%d %H:%M:%S} UTC, of {facts['kb']} of tenant {facts['tenant']}",
        "options": ", ".join(f"{name} {value}" for name, value in options.items()),
        "status": _status(facts),
        "time": f"{facts['took_ms']:,.0f} of {facts['deadline_ms']:,.0f} ms until its deadline "
        f"({facts['deadline_used']:.0%})",
        "replay of": f"{replay.of}, from {replay.stage} on" if replay else "",
        "replays": ", ".join(facts["replays"]),
    }
    return {name: value for name, value in found.items() if value}


def _status(facts: dict[str, Any]) -> str:
    if facts["error"]:
        error = from_json(facts["error"])
        at = f" at {facts['dead_letter']['stage']}" if facts["dead_letter"] else ""
        return f"{facts['status']}{at}: {error.code}: {error}"
    return f"{facts['status']}: {facts['outcome']}, {facts['mode']}" if facts["outcome"] else str(facts["status"])


def _say_stages(facts: dict[str, Any]) -> None:
    say()
    if not facts["stages"]:
        note("No stage is on record: that comes with the end of a question.")
        return
    total = max(facts["took_ms"], *(s["start_ms"] + s["queue_ms"] + s["run_ms"] for s in facts["stages"]))
    columns, axis = ("stage", "attempt", "worker", "cached", "waited ms", "ran ms"), f"0 to {total:,.0f} ms"
    rows = [_row(stage) for stage in facts["stages"]]
    room = room_beside(columns, rows)
    width = WIDTH if room is None else max(room, len(axis))
    drawings = [drawn(_bar(stage), total, width) for stage in facts["stages"]]
    whole = [[*row, drawing] for row, drawing in zip(rows, drawings, strict=True)]
    say_table("░ waited █ ran", (*columns, axis), whole, unbroken=(axis,))
    if facts["sent_again"]:
        note(f"Sent again {facts['sent_again']} times after it was lost; {facts['lost_ms']:,.0f} ms went by before.")
    for stage in facts["stages"]:
        if stage["error"]:
            say(f"{stage['stage']}, attempt {stage['attempt']}: {stage['error']}", style="red")


def _row(stage: dict[str, Any]) -> list[Any]:
    times = [round(stage[name], 1) for name in ("queue_ms", "run_ms")]
    return [stage["stage"], stage["attempt"], stage["worker"], stage["cached"] or "–", *times]


def _bar(stage: dict[str, Any]) -> Bar:
    own = {name: value for name, value in stage.items() if name != "start_ms"}
    return Bar(StageTiming.model_validate(own), stage["start_ms"])


def _say_retrieved(passages: Sequence[dict[str, Any]]) -> None:
    if not passages:
        return
    say()
    rows = [
        [n, p["score"], p["vector_score"], p["keyword_score"], "yes" if p["cited"] else "", p["place"]]
        for n, p in enumerate(passages, start=1)
    ]
    say_table("", ("", "score", "vector", "keyword", "cited", "retrieved"), rows)


def _say_doubts(facts: dict[str, Any]) -> None:
    say()
    for loss in facts["degraded"]:
        say(f"degraded at {loss.stage}, {loss.mode.replace('_', ' ')}: {loss.reason}", style="yellow")
    for flag in facts["flags"]:
        say(f"flag: {flag.rule} in {flag.where}: {' '.join(flag.excerpt.split())[:200]}", style="yellow")
    usage = facts["usage"]
    cost = "unknown" if usage.cost_usd is None else f"${usage.cost_usd:.6f}"
    tokens = f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out, {usage.embedding_tokens:,} embedded"
    say(f"{usage.model or 'no model'} · {tokens} · cost {cost}")
    if usage.estimated_tokens:
        note(f"Of these about {usage.estimated_tokens:,} tokens are of calls that came to no end, and estimated.")
    letter = facts["dead_letter"]
    if letter and letter["replayed_as"]:
        note(f"Replayed as {letter['replayed_as']}.")
    elif letter:
        note(f"`manage.py dead replay {facts['id']}` asks it again from {letter['stage']} on.")
