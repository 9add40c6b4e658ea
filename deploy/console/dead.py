"""``dead``: stages of questions that failed for good: look at them, ask again, forget them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.console.asking import follow_answer
from deploy.console.confirming import Yes, confirm
from deploy.console.context import client_of, current_parts
from deploy.console.ids import SHOWN, QuestionId, find_question
from deploy.console.output import Json, note, say, say_json, say_table
from deploy.console.replaying import FollowOption, Timeout
from pipeline.errors import BadSettings, CeleriacError, InputError, NotFound, from_json
from pipeline.types import DeadLetter
from pipeline.wiring import Parts

if TYPE_CHECKING:
    from tasks.client import Client

OptionalId = Annotated[
    str | None, typer.Argument(metavar="[ID]", help="A question's id, or 4 or more characters that it begins with.")
]
OfTenant = Annotated[str | None, typer.Option("--tenant", help="Only those of this tenant.")]
Cause = Annotated[str, typer.Option("--cause", help="Only those that failed with this error, as ServerFault.")]
Since = Annotated[str, typer.Option("--since", help="Only those that failed since: 30m, 12h, 7d or a date.")]
All = Annotated[bool, typer.Option("--all", help="All that match.")]

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_SPAN = re.compile(r"\d{1,4}[mhd]")
_PAGE = 1000


def add_to(app: typer.Typer) -> None:
    """Register the group of commands."""
    dead = typer.Typer(help="Questions that failed, with what their stage had in hand.", no_args_is_help=True)
    dead.command("list")(dead_list)
    dead.command("show")(dead_show)
    dead.command("replay")(dead_replay)
    dead.command("drop")(dead_drop)
    app.add_typer(dead, name="dead")


def dead_list(
    tenant: OfTenant = None,
    since: Since = "",
    cause: Cause = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """Dead letters, newest first, those that were replayed included."""
    parts = current_parts()
    found = parts.dead_letters.list(
        tenant=tenant, cause=cause_of(cause), since=moment_of(since, datetime.now(UTC)), limit=limit
    )
    if as_json:
        say_json(found)
        return
    say_letters(found)
    if not found:
        note("None. Sources of an ingest that failed are under `manage.py runs list`.")
    if len(found) == limit:
        note(f"The newest {limit}; more with --limit.")


def dead_show(question_id: QuestionId, as_json: Json = False) -> None:
    """One dead letter with the state that the failed stage was given."""
    parts = current_parts()
    letter = _letter(parts, question_id)
    _, state = parts.dead_letters.state(letter.question_id)
    if as_json:
        say_json(letter.model_dump(mode="json") | {"state": state.encode()})
        return
    facts = letter.model_dump(exclude={"error"}) | {"error": f"{letter.error['code']}: {from_json(letter.error)}"}
    for name, value in facts.items():
        say(f"{name:<12} {'–' if value in (None, '') else value}")
    held = {"candidates": len(state.hits), "passages": len(state.passages), "vector": "yes" if state.vector else "no"}
    say(f"{'state':<12} {', '.join(f'{name} {value}' for name, value in held.items())}")
    note(f"`manage.py explain {letter.question_id}` shows where its time went.")


def dead_replay(
    question_id: OptionalId = None,
    every: All = False,
    tenant: OfTenant = None,
    since: Since = "",
    cause: Cause = "",
    follow: FollowOption = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Ask failed questions again, from the stage that failed on, under ids of their own, which are printed."""
    parts = current_parts()
    client = client_of(parts)
    chosen = _chosen(
        parts, question_id, every, tenant=tenant, since=moment_of(since, datetime.now(UTC)), cause=cause_of(cause)
    )
    sent = [_replay(client, old, timeout, forgiving=every) for old in chosen]
    if not as_json:
        for each in sent:
            _say_sent(each)
    if follow:
        sent = [each | _followed(parts, client, each, quiet=as_json) for each in sent]
    if as_json:
        say_json(sent if every else sent[0])
    if any("error" in each for each in sent):
        raise typer.Exit(1)


def dead_drop(
    question_id: OptionalId = None,
    every: Annotated[bool, typer.Option("--all", help="All there are.")] = False,
    older_than: Annotated[str, typer.Option("--older-than", help="Those older than 30m, 12h or 7d.")] = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Forget dead letters; the rows of their questions stay."""
    parts = current_parts()
    if sum((question_id is not None, every, bool(older_than))) != 1:
        raise BadSettings("It isn't clear what to drop.", "Give one of ID, --all and --older-than.")
    if question_id is not None:
        dropped = int(parts.dead_letters.drop(_letter(parts, question_id).question_id))
    else:
        if every:
            confirm("Drop all dead letters?", yes=yes, as_json=as_json)
        dropped = _drop_older(parts, span_of(older_than) if older_than else timedelta())
    say_json({"dropped": dropped}) if as_json else note(f"Dropped {dropped:,}.")


def say_letters(letters: Sequence[DeadLetter]) -> None:
    """A table, a row for each."""
    columns = ("id", "failed", "tenant", "kb", "stage", "tries", "cause", "replay")
    say_table("", columns, [_row(letter) for letter in letters], unbroken=("failed", "replay"))


def cause_of(text: str) -> str:
    """The code of an error, or nothing; raises BadSettings."""
    if text and from_json({"code": text}).code != text:
        raise BadSettings(f"{text!r} is no code of an error.", "`manage.py dead list` shows the codes, as ServerFault.")
    return text


def moment_of(text: str, now: datetime) -> datetime | None:
    """A date, or so long before ``now`` as ``30m``, ``12h`` or ``7d`` says; raises BadSettings."""
    if not text:
        return None
    if _SPAN.fullmatch(text):
        return now - span_of(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadSettings(f"{text!r} is no time.", "Write 30m, 12h, 7d or a date like 2026-11-20.") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def span_of(text: str) -> timedelta:
    """How long ``30m``, ``12h`` or ``7d`` is; raises BadSettings."""
    if not _SPAN.fullmatch(text):
        raise BadSettings(f"{text!r} is no span of time.", "Write 30m, 12h or 7d.")
    return timedelta(**{_UNITS[text[-1]]: int(text[:-1])})


def _row(letter: DeadLetter) -> list[Any]:
    again = (letter.replayed_as or "")[:SHOWN]
    where = [letter.tenant, letter.kb, letter.stage, letter.attempts]
    failed = f"{letter.failed_at:%m-%d %H:%M}"  # a letter is some days old, and a line has 80 characters
    return [letter.question_id[:SHOWN], failed, *where, letter.error["code"], again]


def _letter(parts: Parts, text: str) -> DeadLetter:
    question_id = find_question(parts, text)
    found = parts.dead_letters.find(question_id)
    if found is None:
        raise NotFound(f"There is no dead letter of question {question_id}.", "`manage.py dead list` shows all.")
    return found


def _chosen(
    parts: Parts, question_id: str | None, every: bool, *, tenant: str | None, since: datetime | None, cause: str
) -> list[str]:
    if (question_id is None) != every:
        raise BadSettings("It isn't clear what to replay.", "Give an ID, or --all with --cause, --tenant or --since.")
    if question_id is not None:
        return [_letter(parts, question_id).question_id]
    found = parts.dead_letters.list(tenant=tenant, cause=cause, since=since, replayed=False, limit=_PAGE)
    if len(found) == _PAGE:
        note(f"The newest {_PAGE:,}; run it again for the others.")
    return [letter.question_id for letter in reversed(found)]


def _replay(client: Client, old: str, timeout: float | None, *, forgiving: bool) -> dict[str, Any]:
    try:
        begins = client.replay_dead(old, timeout=timeout)
    except InputError as error:  # this one can't be replayed; of many, the others can
        if not forgiving:
            raise
        return {"replay_of": old, "error": error.to_json()}
    return {"id": begins.question.id, "replay_of": old, "began_at": begins.stage, "reason": begins.reason}


def _say_sent(sent: dict[str, Any]) -> None:
    if "error" in sent:
        note(f"{sent['replay_of']}: {from_json(sent['error'])}")
        return
    say(sent["id"])
    if sent["reason"]:
        note(f"It begins at {sent['began_at']}: {sent['reason']}.")


def _followed(parts: Parts, client: Client, sent: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    if "error" in sent:
        return {}
    try:
        answer = follow_answer(client, parts.questions.find(sent["id"]).question, quiet=quiet)
    except CeleriacError as error:
        if not quiet:
            note(f"{sent['id']}: {error}")
        return {"error": error.to_json()}
    if not quiet:
        say()
    return {"answer": answer.model_dump(mode="json")}


def _drop_older(parts: Parts, span: timedelta) -> int:
    total = 0
    # What fails meanwhile is not meant.
    begun = time.time()
    while some := parts.dead_letters.expire(span.total_seconds() + time.time() - begun, _PAGE):
        total += some
    return total
