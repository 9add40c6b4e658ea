"""``cancel``, and Ctrl-C in ``ask``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deploy.console.context import client_of, current_parts
from deploy.console.ids import find_question
from deploy.console.output import Json, note, say, say_error, say_json
from pipeline.errors import CeleriacError, Conflict, NotFound
from pipeline.wiring import Parts

if TYPE_CHECKING:
    from tasks.client import Client


DETACH = "To ask without waiting: manage.py ask --detach"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(cancel)


def cancel(
    question_ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Ids, or 4 or more characters that each begins with.")
    ],
    as_json: Json = False,
) -> None:
    """Give questions up: the model stops writing, no answer will come. Exit status 2 if one had ended otherwise."""
    parts = current_parts()
    client = client_of(parts)
    outcomes = {text: _find_and_cancel(parts, client, text) for text in dict.fromkeys(question_ids)}
    if as_json:
        say_json([{"id": text, "cancelled": error is None, "error": error} for text, error in outcomes.items()])
    else:
        for text, error in outcomes.items():
            say(f"{text} cancelled") if error is None else say_error(error)
    failures = [error.exit_status for error in outcomes.values() if error is not None]
    if failures:
        raise typer.Exit(max(failures))


def cancel_on_leaving(client: Client, question_id: str, advice: str = DETACH) -> None:
    """What Ctrl-C does to a question whose answer was waited for; ``advice`` is said beside it."""
    error = _cancel(client, question_id)
    if error is None:
        note(f"\nCancelled question {question_id}. {advice}".rstrip())
    elif isinstance(error, Conflict):
        note(f"\nIt was over already: manage.py result {question_id}")
    elif not isinstance(error, NotFound):  # that is one which wasn't submitted yet
        note(f"\nNot cancelled. {error}")


def _find_and_cancel(parts: Parts, client: Client, text: str) -> CeleriacError | None:
    try:
        return _cancel(client, find_question(parts, text))
    except CeleriacError as error:
        return error


def _cancel(client: Client, question_id: str) -> CeleriacError | None:
    """None, or what is to be said where it could not be done."""
    try:
        if client.cancel(question_id):
            return None
        return Conflict(f"Question {question_id} is over already.", f"See `manage.py result {question_id}`.")
    except CeleriacError as error:
        return error
