"""What ``chat`` says: to a person, and as events, a JSON object on each line, to a program."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from deploy.console.asking import Screen, note_degraded, place, say_citations, say_passages
from deploy.console.confirming import counted
from deploy.console.ids import of_tenant
from deploy.console.output import note, say, say_error, say_line
from pipeline.errors import CeleriacError
from pipeline.seams import AnswerWriter
from pipeline.types import Answer, Conversation, Passage, Question

COMMANDS = {
    "/context": "what the last answer was made from: the question as it was looked for, and the passages",
    "/sources": "its citations, with quotes",
    "/retry": "ask the last question anew; the new answer takes the place of the old one",
    "/new": "begin another conversation",
    "/help": "this",
    "/exit": "leave, as Ctrl-D does",
}


class Talk:
    """To a person: answers on standard output, all else beside them."""

    def screen(self) -> Screen:
        """What the next answer is written to."""
        return Screen(quiet=False)

    def begun(self, conversation: str) -> None:
        """A conversation has its id."""

    def goes_on(self, conversation: Conversation) -> None:
        """One is taken up again."""
        turns = counted(conversation.turns, "turn")
        note(f"Going on with: {conversation.title or 'nothing yet'} ({turns}, {conversation.kb})")

    def answered(self, question: Question, answer: Answer) -> None:
        """After the last piece of an answer."""
        sys.stdout.write("\n")
        sys.stdout.flush()
        if answer.mode == "extractive":
            note("(extractive: sentences of the passages, no model wrote this)")
        places = {citation.number: _named(citation.model_dump()) for citation in answer.citations}
        if places:
            note("  ".join(f"[{number}] {named}" for number, named in places.items()))
        note_degraded(answer.degraded)

    def cancelled(self, question_id: str) -> None:
        """That was told when it was done."""

    def failed(self, error: CeleriacError) -> None:
        """A turn, or a command, failed."""
        say_error(error)

    def context(self, question: Question, answer: Answer, passages: Sequence[Passage]) -> None:
        """What an answer was made from."""
        say(f"asked:      {question.text}")
        say(f"looked for: {answer.standalone or question.text}")
        if not passages:
            note("No passage was found.")
        say_passages(passages)

    def sources(self, answer: Answer) -> None:
        """What an answer cites."""
        if not answer.citations:
            note("It cites nothing.")
        say_citations(answer)

    def help(self) -> None:
        """All commands."""
        for name, meaning in COMMANDS.items():
            say(f"{name:<9} {meaning}")

    def left(self, conversation: str | None, tenant: str) -> None:
        """It is over for now."""
        if conversation is not None:
            note(f"\nGo on with: manage.py chat --conversation {conversation}{of_tenant(tenant)}")


class Events(Talk):
    """To a program."""

    def screen(self) -> Screen:
        """What the next answer is written to."""
        return _EventScreen()

    def begun(self, conversation: str) -> None:
        """``conversation``."""
        _say("conversation", id=conversation)

    def goes_on(self, conversation: Conversation) -> None:
        """``conversation``."""
        self.begun(conversation.id)

    def answered(self, question: Question, answer: Answer) -> None:
        """``answer``, whole, after its pieces."""
        _say("answer", turn=question.turn, question=question.text, answer=answer)

    def cancelled(self, question_id: str) -> None:
        """``cancelled``."""
        _say("cancelled", question_id=question_id)

    def failed(self, error: CeleriacError) -> None:
        """``error``."""
        _say("error", error=error)

    def context(self, question: Question, answer: Answer, passages: Sequence[Passage]) -> None:
        """``context``."""
        _say("context", question=question.text, standalone=answer.standalone, passages=passages)

    def sources(self, answer: Answer) -> None:
        """``sources``."""
        _say("sources", citations=answer.citations)

    def help(self) -> None:
        """``help``."""
        _say("help", commands=COMMANDS)

    def left(self, conversation: str | None, tenant: str) -> None:
        """``end``."""
        _say("end", conversation=conversation)


class _EventScreen(Screen):
    """Hands on the pieces of an answer as they come."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def open(self, question_id: str, attempt: int) -> AnswerWriter:
        _say("begin", question_id=question_id, attempt=attempt)
        return self

    def write(self, text: str) -> None:
        _say("text", text=text)


def _say(event: str, **facts: Any) -> None:
    say_line({"event": event, **facts})


def _named(citation: dict[str, Any]) -> str:
    names = ("chunk_id", "document_id", "title", "source", "page", "section")
    return place(Passage.model_validate({name: citation[name] for name in names}))
