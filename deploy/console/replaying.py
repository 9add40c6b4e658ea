"""``replay``: a question that is over once more, from a stage on and with other options, beside what it was before."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from deploy.console.asking import follow_answer, place
from deploy.console.context import client_of, current_parts
from deploy.console.ids import QuestionId, find_question
from deploy.console.output import Json, note, say, say_json, say_table
from pipeline.errors import CeleriacError, from_json
from pipeline.types import Passage, QuestionRecord

Timeout = Annotated[float | None, typer.Option("--timeout", min=0.1, help="Seconds until the new question must end.")]
FollowOption = Annotated[bool, typer.Option("--follow", help="Print the answer while it is written.")]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(replay)


def replay(
    question_id: QuestionId,
    stage: Annotated[str, typer.Option("--from", metavar="STAGE", help="The first stage that runs again.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change an option, as top_k=8; `top_k=` sets its default."),
    ] = None,
    follow: FollowOption = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Run the tail of a question again and compare. Options: top_k, alpha, min_score, fusion, parents, strict, model,
    reasoning_effort, verbosity.
    """
    parts = current_parts()
    client = client_of(parts)
    before = parts.questions.find(find_question(parts, question_id))
    begins = client.replay(before.question.id, stage, changes or (), timeout=timeout)
    if begins.reason and not as_json:
        note(f"Begins at {begins.stage}: {begins.reason}.")
    failure: CeleriacError | None = None
    try:
        follow_answer(client, begins.question, quiet=as_json or not follow)
    except CeleriacError as error:
        failure = error
    if follow and not as_json:
        say()
    after = parts.questions.find(begins.question.id)
    compared = comparison(before, after) | {"from": stage, "began_at": begins.stage, "reason": begins.reason}
    say_json(compared | {"answer": after.answer}) if as_json else say_comparison(compared)
    if failure is not None:
        raise failure


def comparison(before: QuestionRecord, after: QuestionRecord) -> dict[str, Any]:
    """What differs between two questions: how each ended, what it took, which passages only one of them had."""
    old = {passage.chunk_id: passage for passage in before.passages}
    new = {passage.chunk_id: passage for passage in after.passages}
    return {
        "id": after.question.id,
        "replay_of": before.question.id,
        "before": _ended(before),
        "after": _ended(after),
        "passages": {
            "kept": len(old.keys() & new.keys()),
            "gained": [_named(passage) for name, passage in new.items() if name not in old],
            "lost": [_named(passage) for name, passage in old.items() if name not in new],
        },
    }


def _ended(record: QuestionRecord) -> dict[str, Any]:
    answer, asked = record.answer, record.question
    took = None if record.finished_at is None else (record.finished_at - asked.submitted_at) * 1000
    ended = answer.outcome if answer else record.status
    return {
        "outcome": f"{ended}: {record.error['code']}" if record.error else ended,
        "mode": answer.mode if answer else None,
        "options": asked.options,
        "passages": len(record.passages),
        "degraded": list(record.degraded),
        **record.usage.model_dump(),
        "took_ms": took,
        "text": answer.text if answer else str(from_json(record.error)) if record.error else "",
    }


def _named(passage: Passage) -> dict[str, Any]:
    facts = passage.model_dump(include={"chunk_id", "title", "source", "section", "page", "score"})
    return facts | {"place": place(passage)}


def say_comparison(compared: dict[str, Any]) -> None:
    """What differs, side by side."""
    before, after = compared["before"], compared["after"]
    rows = [[name, _shown(before[name]), _shown(after[name])] for name in before if before[name] or after[name]]
    say_table("", ("", "before", "after"), rows)
    for sign, which, style in (("+", "gained", "green"), ("-", "lost", "red")):
        for passage in compared["passages"][which]:
            say(f"{sign} {passage['score']:.3f} {passage['place']}", style=style)
    note(f"{compared['passages']['kept']} passages are in both · id {compared['id']}")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}" if value >= 1 else f"{value:.6f}"
    if isinstance(value, list):  # what an answer had to do without
        return "; ".join(f"{loss.mode.replace('_', ' ')} at {loss.stage}" for loss in value) or "–"
    if hasattr(value, "encode") and not isinstance(value, str):
        value = ", ".join(f"{name} {each}" for name, each in value.encode().items())
    return "–" if value in (None, "") else str(value)
