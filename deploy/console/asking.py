"""``ask``, ``result``, ``search``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.console.cancelling import DETACH, cancel_on_leaving
from deploy.console.context import client_of, current_parts
from deploy.console.ids import QuestionId, find_conversation, find_question, of_tenant
from deploy.console.interrupts import heed
from deploy.console.output import Json, note, plain, say, say_json, say_table
from pipeline.errors import BadQuestion, BadSettings, NotFound, wrap
from pipeline.seams import AnswerWriter
from pipeline.types import Answer, AskOptions, Degradation, Fusion, Passage, Question, Turn
from pipeline.wiring import Parts

if TYPE_CHECKING:
    from tasks.client import Client

Kb = Annotated[str, typer.Option("--kb", help="Knowledge base.")]
KbOrConversations = Annotated[
    str | None, typer.Option("--kb", help="Knowledge base; the conversation's own, or default.", show_default=False)
]
Tenant = Annotated[str, typer.Option("--tenant", help="Tenant that owns it.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, max=100, help="Passages to answer from.")]
MinScore = Annotated[
    float | None, typer.Option("--min-score", min=0, max=1, help="Fused score below which a passage is no evidence.")
]
Alpha = Annotated[
    float | None,
    typer.Option("--alpha", min=0, max=1, help="Weight of the vector branch: 0 keywords only, 1 vectors only."),
]
FusionOption = Annotated[str, typer.Option("--fusion", help="scores (normalised scores) or rrf (reciprocal rank).")]
Parents = Annotated[
    bool | None,
    typer.Option("--parents/--no-parents", help="Widen each passage to the stretch around it that was stored."),
]
Strict = Annotated[
    bool | None,
    typer.Option("--strict/--no-strict", help="Fail rather than give a lesser answer when a service is down."),
]
Cache = Annotated[
    bool | None,
    typer.Option("--cache/--no-cache", help="Take what the same question was given before, or make it anew."),
]
ConversationId = Annotated[
    str | None,
    typer.Option("--conversation", metavar="ID", help="Go on with a conversation; `new` begins one."),
]
Timeout = Annotated[float | None, typer.Option("--timeout", min=0.1, help="Seconds until the question must end.")]
Local = Annotated[bool, typer.Option("--local", help="Run all stages in this process, without a broker.")]
Model = Annotated[str | None, typer.Option("--model", help="Chat model for this answer.")]
ReasoningEffort = Annotated[str | None, typer.Option("--reasoning-effort", help="Passed on to the model.")]
Verbosity = Annotated[str | None, typer.Option("--verbosity", help="Passed on to the model.")]
MAX_INPUT_BYTES = 4_000_000
NEW = "new"
DEFAULT_KB = "default"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(ask)
    app.command()(result)
    app.command()(search)


def ask(
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
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
    show_context: Annotated[bool, typer.Option("--show-context", help="Print the passages answered from.")] = False,
    local: Local = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the id and leave; `result ID` reads the answer.")
    ] = False,
    timeout: Timeout = None,
    model: Model = None,
    reasoning_effort: ReasoningEffort = None,
    verbosity: Verbosity = None,
    as_json: Json = False,
) -> None:
    """Ask a question; the answer streams in, then its citations and where the time went. Ctrl-C cancels it."""
    from pipeline.ask.question import new_question

    if local and detach:
        raise BadSettings(
            "--local and --detach exclude each other.", "Only workers go on with a question by themselves."
        )
    parts = current_parts()
    options = ask_options(parts, top_k, min_score, alpha, fusion, parents, strict).model_copy(
        update={"cache": cache, "model": model, "reasoning_effort": reasoning_effort, "verbosity": verbosity}
    )
    text = read_question(question)
    client = None if local else client_of(parts)
    asked = new_question(text, parts.settings, tenant=tenant, options=options, timeout=timeout)
    asked = in_conversation(parts, asked, conversation, kb)
    if client is None:
        answer = ask_here(parts, asked, Screen(as_json))
    else:
        if detach:
            client.submit(asked)
            say_json({"question_id": asked.id} | _place_in(asked)) if as_json else say(asked.id)
            _note_conversation(asked, as_json)
            return
        answer = ask_workers(client, asked, Screen(as_json))
    _print_answer(parts, answer, asked, show_context=show_context, as_json=as_json, streamed=True)
    _note_conversation(asked, as_json)


def in_conversation(parts: Parts, question: Question, conversation: str | None, kb: str | None) -> Question:
    """The question to ``kb``, as the next one of a conversation if one is named, or of a new one. Raises NotFound for
    one that its tenant hasn't, and BadSettings for one with another knowledge base.
    """
    if conversation is None:
        return question.model_copy(update={"kb": kb or DEFAULT_KB})
    if conversation == NEW:
        name = parts.knowledge_bases.find(question.tenant, kb or DEFAULT_KB).name
        turn = Turn(conversation=parts.conversations.begin(question.tenant, name))
    else:
        whole = find_conversation(parts, conversation, question.tenant)
        found = parts.conversations.find(whole, question.tenant, kb)
        name, turn = found.kb, Turn(conversation=found.id)
    return question.model_copy(update={"kb": name, "turn": turn})


def _place_in(question: Question) -> dict[str, Any]:
    return {} if question.turn is None else {"conversation": question.turn.conversation}


def _note_conversation(question: Question, as_json: bool) -> None:
    if question.turn is not None and not as_json:
        note(f"Go on with: manage.py ask --conversation {question.turn.conversation}{of_tenant(question.tenant)} …")


def result(
    question_id: QuestionId,
    show_context: Annotated[bool, typer.Option("--show-context", help="Print the passages answered from.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Read along until it is finished.")] = False,
    as_json: Json = False,
) -> None:
    """Read the answer of a question asked before. Exit status 3 while it isn't finished, 4 if it was cancelled."""
    parts = current_parts()
    question_id = find_question(parts, question_id)
    record = parts.questions.find(question_id)
    client = client_of(parts)
    answer = client.result(question_id)
    if answer is None and follow:
        answer = follow_answer(client, record.question, quiet=as_json)
        _print_answer(parts, answer, record.question, show_context=show_context, as_json=as_json, streamed=True)
        return
    if answer is None:
        say_json({"question_id": question_id, "status": record.status}) if as_json else note("Not finished yet.")
        raise typer.Exit(3)
    _print_answer(parts, answer, record.question, show_context=show_context, as_json=as_json, streamed=False)


def search(
    query: Annotated[str, typer.Argument(help="What to look for; - reads it from standard input.")],
    kb: Kb = "default",
    tenant: Tenant = "default",
    top_k: TopK = 10,
    min_score: MinScore = 0.0,
    alpha: Alpha = None,
    fusion: FusionOption = "scores",
    parents: Parents = None,
    as_json: Json = False,
) -> None:
    """Retrieve passages without answering, with the score of each branch."""
    from pipeline.ask.flow import retrieve
    from pipeline.ask.question import new_question

    parts = current_parts()
    options = ask_options(parts, top_k, min_score, alpha, fusion, parents)
    begun = time.perf_counter()
    question = new_question(read_question(query), parts.settings, kb=kb, tenant=tenant, options=options)
    state = retrieve(question, parts)
    spent = (time.perf_counter() - begun) * 1000
    if as_json:
        found = {"passages": state.passages, "degraded": state.degraded}
        say_json({**found, "timings": state.timings, "total_ms": spent})
        return
    for number, passage in enumerate(state.passages, start=1):
        say(f"{number:>2}. {place(passage)}", style="bold")
        vector, keyword = _score(passage.vector_score), _score(passage.keyword_score)
        say(f"    score {passage.score:.3f} · vector {vector} · keyword {keyword}", style="dim")
        say(f"    {_excerpt(passage.text)}")
    note_degraded(state.degraded)
    note(f"{len(state.passages)} passages in {spent:.0f} ms")


def read_question(text: str) -> str:
    """The text itself, or standard input for ``-``; raises BadQuestion where that isn't UTF-8."""
    if text != "-":
        return text
    data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(data) > MAX_INPUT_BYTES:
            return data.decode("utf-8", "replace")
        raise BadQuestion(f"The question is not UTF-8 (byte {error.start}).", "Convert it to UTF-8 first.") from None


def place(passage: Passage) -> str:
    """Document, section and page, as a reader would look it up."""
    parts = [passage.title or passage.source]
    # A Markdown file's first heading is often its title too: once is enough.
    below = passage.section.removeprefix(f"{passage.title} > ")
    if below and below != passage.title:
        parts.append(below)
    if passage.page is not None:
        parts.append(f"page {passage.page}")
    return " · ".join(parts)


def ask_options(
    parts: Parts,
    top_k: int | None,
    min_score: float | None,
    alpha: float | None,
    fusion: str,
    parents: bool | None,
    strict: bool | None = None,
) -> AskOptions:
    """What the options of a command ask for; the settings say the rest."""
    if fusion not in ("scores", "rrf"):
        raise typer.BadParameter("--fusion takes scores or rrf")
    method: Fusion = "rrf" if fusion == "rrf" else "scores"
    return AskOptions(
        top_k=top_k or parts.settings.top_k,
        min_score=min_score,
        alpha=alpha,
        fusion=method,
        parents=parts.settings.parents if parents is None else parents,
        strict=parts.settings.strict if strict is None else strict,
    )


def ask_here(parts: Parts, question: Question, screen: Screen) -> Answer:
    """Run all stages in this process; raises what the question ends with, and cancels it on Ctrl-C."""
    from pipeline.ask import flow

    _ = parts.questions  # imported while nothing is to be cancelled yet
    heed()
    question = parts.questions.submit(question)
    try:
        answer = flow.run(question, parts, screen)
        screen.correct(answer)
        return answer
    except KeyboardInterrupt:
        parts.questions.cancel(question.id)
        note(f"\nCancelled question {question.id}.")
        raise
    except Exception as error:
        parts.questions.fail(question.id, wrap(error), epoch=question.epoch)
        raise


def ask_workers(client: Client, question: Question, screen: Screen, *, advice: str = DETACH) -> Answer:
    """Submit and follow; raises what the question ends with, and cancels it on Ctrl-C, which says ``advice``."""
    heed()
    try:
        client.submit(question)
        return _follow(client, question, screen)
    except KeyboardInterrupt:
        cancel_on_leaving(client, question.id, advice)
        raise


def follow_answer(client: Client, question: Question, *, quiet: bool) -> Answer:
    """Print the answer while it is written, unless ``quiet``; raises what the question ends with."""
    return _follow(client, question, Screen(quiet))


def _follow(client: Client, question: Question, screen: Screen) -> Answer:
    for event in client.follow(question):
        if event.kind == "begin":
            screen.open(question.id, int(event.value))
        elif event.kind == "text":
            screen.write(str(event.value))
    answer = client.result(question.id)
    if answer is None:
        raise NotFound("The result is not there any more.", f"Try `manage.py result {question.id}`.")
    screen.correct(answer)
    return answer


class Screen:
    """Prints an answer while it is written."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._shown: list[str] = []

    def open(self, question_id: str, attempt: int) -> AnswerWriter:
        """An attempt at the answer begins: what came before is void."""
        if self._shown and not self._quiet:
            note("\n(a worker, a call or Redis failed: the answer starts again)")
        self._shown.clear()
        return self

    def write(self, text: str) -> None:
        """The next piece."""
        if not self._quiet:
            self._shown.append(text)
            sys.stdout.write(plain(text))
            sys.stdout.flush()

    def correct(self, answer: Answer) -> None:
        """Print the answer as it was recorded where that differs from what was seen, as after a citation of nothing."""
        if not self._quiet and "".join(self._shown).strip() != answer.text.strip():
            note("\n(as checked and recorded:)")
            say(answer.text)

    def flush(self) -> None:
        """Nothing is held back."""


def _print_answer(
    parts: Parts, answer: Answer, asked: Question, *, show_context: bool, as_json: bool, streamed: bool
) -> None:
    passages = context(parts, answer, asked) if show_context else []
    if as_json:
        more = {"context": passages} if show_context else {}
        say_json(answer.model_dump(mode="json") | _place_in(asked) | more)
        return
    if streamed:
        sys.stdout.write("\n")
    else:
        say(answer.text)
    if answer.mode == "extractive":
        note("(extractive: sentences of the passages, no model wrote this)")
    say_citations(answer)
    say_passages(passages)
    for flag in answer.flags:
        note(f"flag: {flag.rule} in {flag.where}: {_excerpt(flag.excerpt)}")
    if answer.standalone:
        note(f"looked for: {answer.standalone}")
    note_degraded(answer.degraded)
    _print_timings(answer)


def say_passages(passages: Sequence[Passage]) -> None:
    """Each with its place, score and text."""
    for passage in passages:
        say(f"\n── {place(passage)} (score {passage.score:.3f})", style="bold")
        say(passage.text)


def note_degraded(losses: Sequence[Degradation]) -> None:
    """A line for each thing that an answer had to do without."""
    for loss in losses:
        note(f"degraded at {loss.stage}, {loss.mode.replace('_', ' ')}: {loss.reason}")


def context(parts: Parts, answer: Answer, asked: Question) -> list[Passage]:
    """The passages that an answer was made from, with their texts as far as they are stored still."""
    from pipeline.retrieve.reading import read

    kb_id = parts.knowledge_bases.find(asked.tenant, asked.kb).id
    found = read(answer.passages, kb_id, texts=parts.passages, parents=asked.options.parents)
    texts = {passage.chunk_id: passage.text for passage in found}
    gone = "(no longer stored: the document has changed since)"
    return [p.model_copy(update={"text": texts.get(p.chunk_id, gone)}) for p in answer.passages]


def say_citations(answer: Answer) -> None:
    """Each with its place and its quote."""
    if answer.citations:
        say()
    for citation in answer.citations:
        at = Passage(**citation.model_dump(include={"chunk_id", "document_id", "title", "source", "page", "section"}))
        say(f"[{citation.number}] {place(at)}", style="bold")
        say(f"    {citation.source}, characters {citation.start}–{citation.end}", style="dim")
        say(f"    “{_excerpt(citation.quote, 300)}”")


def _print_timings(answer: Answer) -> None:
    say()
    rows: list[list[Any]] = [
        [t.stage, round(t.queue_ms, 1), round(t.run_ms, 1), t.worker or f"({t.cached})", t.attempt]
        for t in answer.timings
    ]
    rows.append(
        [
            "total",
            round(sum(t.queue_ms for t in answer.timings), 1),
            round(sum(t.run_ms for t in answer.timings), 1),
            "",
            "",
        ]
    )
    say_table("", ["stage", "waited ms", "ran ms", "worker", "attempt"], rows)
    usage = answer.usage
    cost = "unknown" if usage.cost_usd is None else f"${usage.cost_usd:.6f}"
    note(
        f"{usage.model or 'no model'} · {usage.input_tokens} tokens in, {usage.output_tokens} out, "
        f"{usage.embedding_tokens} embedded · cost {cost} · id {answer.question_id}"
    )


def _excerpt(text: str, length: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
