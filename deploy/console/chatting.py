"""``chat``: a conversation, line by line, at a terminal or through a pipe."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer

from deploy.console.asking import (
    DEFAULT_KB,
    NEW,
    Alpha,
    Cache,
    ConversationId,
    FusionOption,
    KbOrConversations,
    Local,
    MinScore,
    Model,
    Parents,
    ReasoningEffort,
    Strict,
    Tenant,
    Timeout,
    TopK,
    Verbosity,
    ask_here,
    ask_options,
    ask_workers,
    context,
)
from deploy.console.chat_output import Events, Talk
from deploy.console.context import client_of, current_parts
from deploy.console.ids import find_conversation
from deploy.console.interrupts import heed
from deploy.console.output import Json
from pipeline.errors import BadSettings, CeleriacError, NotFound
from pipeline.types import Answer, AskOptions, Question, Turn, Value
from pipeline.wiring import Parts

if TYPE_CHECKING:
    from tasks.client import Client

_COMMAND = re.compile(r"/[a-z]+", re.IGNORECASE)
_PROMPT = "> "


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(chat)


def chat(
    kb: KbOrConversations = None,
    tenant: Tenant = "default",
    conversation: ConversationId = None,
    top_k: TopK = None,
    min_score: MinScore = None,
    alpha: Alpha = None,
    fusion: FusionOption = "scores",
    parents: Parents = None,
    strict: Strict = None,
    cache: Cache = None,
    local: Local = False,
    timeout: Timeout = None,
    model: Model = None,
    reasoning_effort: ReasoningEffort = None,
    verbosity: Verbosity = None,
    as_json: Json = False,
) -> None:
    """Ask question after question, each in the light of those before it. /help lists what else can be typed. Ctrl-C
    cancels the answer under way, and leaves at the prompt.
    """
    parts = current_parts()
    options = ask_options(parts, top_k, min_score, alpha, fusion, parents, strict).model_copy(
        update={"cache": cache, "model": model, "reasoning_effort": reasoning_effort, "verbosity": verbosity}
    )
    client = None if local else client_of(parts)
    manner = _Manner(tenant=tenant, kb=kb or DEFAULT_KB, options=options, timeout=timeout)
    talk = Events() if as_json else Talk()
    session = _Session(parts, client, manner, talk)
    if conversation in (None, NEW):
        parts.knowledge_bases.find(tenant, manner.kb)
    else:
        session.go_on(str(conversation), kb)
    heed()
    with contextlib.suppress(KeyboardInterrupt):
        for line in _lines():
            if not session.take(line):
                break
    talk.left(session.conversation, tenant)


class _Manner(Value):
    """How all questions of a session are asked."""

    tenant: str
    kb: str
    options: AskOptions
    timeout: float | None = None


class _Session:
    """What was asked and answered in this conversation last."""

    def __init__(self, parts: Parts, client: Client | None, manner: _Manner, talk: Talk) -> None:
        self.conversation: str | None = None  # begun with the first question, so that none is left empty
        self._parts, self._client, self._manner, self._talk = parts, client, manner, talk
        self._asked: Question | None = None
        self._answered: str | None = None
        self._commands: dict[str, Callable[[], object]] = {
            "/context": self._show_context,
            "/sources": self._show_sources,
            "/retry": self._retry,
            "/new": self._begin_anew,
            "/help": talk.help,
        }

    def go_on(self, conversation: str, kb: str | None) -> None:
        """Take up a conversation where it was left. Raises NotFound, BadSettings."""
        tenant = self._manner.tenant
        found = self._parts.conversations.find(find_conversation(self._parts, conversation, tenant), tenant, kb)
        self.conversation = found.id
        self._manner = self._manner.model_copy(update={"kb": found.kb})
        turns = self._parts.conversations.turns(found.id, 10)
        self._asked = self._parts.questions.find(turns[-1].question_id).question if turns else None
        self._answered = next((turn.question_id for turn in reversed(turns) if turn.status == "done"), None)
        self._talk.goes_on(found)

    def take(self, line: str) -> bool:
        """Do what was typed; False: leave. What goes wrong is told, and no reason to leave."""
        words = line.split()
        if not words:
            return True
        if words[0] == "/exit":
            return False
        try:
            if _COMMAND.fullmatch(words[0]):
                self._command(words[0])
            else:
                self._ask(line)
        except CeleriacError as error:
            self._talk.failed(error)
        return True

    def _command(self, name: str) -> None:
        if name not in self._commands:
            raise BadSettings(f"{name} is no command.", "/help lists them.")
        self._commands[name]()

    def _ask(self, text: str) -> None:
        self._put(self._question(text))

    def _put(self, question: Question) -> None:
        self._asked = question
        try:
            answer = self._answer(question)
        except KeyboardInterrupt:
            self._talk.cancelled(question.id)
            return
        self._answered = question.id
        self._talk.answered(self._parts.questions.find(question.id).question, answer)

    def _question(self, text: str) -> Question:
        from pipeline.ask.question import new_question

        manner, settings = self._manner, self._parts.settings
        asked = new_question(
            text, settings, kb=manner.kb, tenant=manner.tenant, options=manner.options, timeout=manner.timeout
        )
        if self.conversation is None:
            self.conversation = self._parts.conversations.begin(manner.tenant, manner.kb)
            self._talk.begun(self.conversation)
        return asked.model_copy(update={"turn": Turn(conversation=self.conversation)})

    def _answer(self, question: Question) -> Answer:
        screen = self._talk.screen()
        if self._client is None:
            return ask_here(self._parts, question, screen)
        return ask_workers(self._client, question, screen, advice="")

    def _retry(self) -> None:
        if self._asked is None:
            raise BadSettings("Nothing was asked yet.", "Ask something.")
        again = self._question(self._asked.text)
        # Where it never came so far that it had a number, it is the next one.
        with contextlib.suppress(NotFound):
            again = again.model_copy(update={"turn": self._parts.questions.find(self._asked.id).question.turn})
        self._put(again.model_copy(update={"options": again.options.model_copy(update={"cache": False})}))

    def _begin_anew(self) -> None:
        self._talk.left(self.conversation, self._manner.tenant)
        self.conversation = self._asked = self._answered = None

    def _show_context(self) -> None:
        question, answer = self._last()
        self._talk.context(question, answer, context(self._parts, answer, question))

    def _show_sources(self) -> None:
        self._talk.sources(self._last()[1])

    def _last(self) -> tuple[Question, Answer]:
        record = None if self._answered is None else self._parts.questions.find(self._answered)
        if record is None or record.answer is None:
            raise BadSettings("Nothing was answered yet.", "Ask something.")
        return record.question, record.answer


def _lines() -> Iterator[str]:
    """What is typed, with a prompt and the history of the keyboard, or what comes through a pipe."""
    if not sys.stdin.isatty():
        # Not by iterating over it: only a call lets a Ctrl-C that comes with the end of the pipe be heard in here.
        while line := sys.stdin.buffer.readline():
            # What isn't UTF-8 is refused with the question it is in, and the next one is read.
            yield line.decode("utf-8", "replace").strip()
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - it edits what `input` reads
    with contextlib.suppress(EOFError):
        while True:
            yield input(_PROMPT).strip()
