"""``conversations``: what was talked about, and forgetting it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from deploy.console.asking import Tenant
from deploy.console.confirming import Yes, confirm, counted
from deploy.console.context import client_of, current_parts
from deploy.console.ids import SHOWN, find_conversation, of_tenant
from deploy.console.output import Json, note, say, say_json, say_table
from pipeline.errors import from_json
from pipeline.types import TurnRecord

Id = Annotated[
    str, typer.Argument(metavar="ID", help="A conversation's id, or 4 or more characters that it begins with.")
]


def add_to(app: typer.Typer) -> None:
    """Register the group of commands."""
    group = typer.Typer(help="Conversations: list, show, delete.", no_args_is_help=True)
    group.command("list")(conversations_list)
    group.command("show")(conversations_show)
    group.command("delete")(conversations_delete)
    app.add_typer(group, name="conversations")


def conversations_list(
    tenant: Tenant = "default",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """Conversations, the ones used last first."""
    found = current_parts().conversations.list(tenant, limit)
    if as_json:
        say_json(found)
        return
    columns = ("id", "kb", "turns", "used", "first question")
    say_table("", columns, [[c.id[:SHOWN], c.kb, c.turns, c.used_at, " ".join(c.title.split())] for c in found])
    if not found:
        note(f"None yet: `manage.py chat{of_tenant(tenant)}` begins one.")


def conversations_show(
    conversation: Id,
    tenant: Tenant = "default",
    limit: Annotated[int, typer.Option("--limit", min=1, help="The last so many questions.")] = 100,
    as_json: Json = False,
) -> None:
    """What was asked and answered, and what follow-up questions were taken to mean."""
    parts = current_parts()
    found = parts.conversations.find(find_conversation(parts, conversation, tenant), tenant)
    turns = parts.conversations.turns(found.id, limit)
    if as_json:
        marked = [turn.model_dump(mode="json") | {"replaced": gone} for turn, gone in with_replaced(turns)]
        say_json(found.model_dump(mode="json") | {"questions": marked})
        return
    for turn, gone in with_replaced(turns):
        _say_turn(turn, replaced=gone)
    note(f"Go on with: manage.py chat --conversation {found.id}{of_tenant(tenant)}")


def conversations_delete(conversation: Id, tenant: Tenant = "default", yes: Yes = False, as_json: Json = False) -> None:
    """Forget a conversation with all its questions and answers."""
    parts = current_parts()
    found = parts.conversations.find(find_conversation(parts, conversation, tenant), tenant)
    turns = counted(found.turns, "turn")
    confirm(f"Delete {turns}, beginning with {found.title!r}?", yes=yes, as_json=as_json)
    if parts.settings.redis_url is None:  # there is nobody who could be at work on it
        parts.conversations.delete(found.id, tenant)
    else:
        client_of(parts).forget(found.id, tenant=tenant)
    say_json({"deleted": found.id}) if as_json else note(f"Deleted {found.id}.")


def with_replaced(turns: Sequence[TurnRecord]) -> list[tuple[TurnRecord, bool]]:
    """Each with whether another answer took the place of its own: of a turn asked anew the last answer counts."""
    last = {turn.number: turn.question_id for turn in turns if turn.status == "done"}
    return [(turn, turn.status == "done" and last[turn.number] != turn.question_id) for turn in turns]


def _say_turn(turn: TurnRecord, *, replaced: bool) -> None:
    say(f"{turn.number}. {turn.question}{' (replaced: it was asked anew)' if replaced else ''}", style="bold")
    if turn.standalone:
        say(f"   looked for: {turn.standalone}", style="dim")
    if turn.error:
        say(f"{turn.status}: {from_json(turn.error)}", style="red")
    else:
        say(turn.answer or f"({turn.status})")
    say(f"   {turn.question_id}", style="dim")
    say()
