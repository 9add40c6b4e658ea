"""``ask``, ``result``, ``search``."""

from __future__ import annotations

import sys
import time
import uuid
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.console.context import client_of, current_parts
from deploy.console.output import Json, note, plain, say, say_json, say_table
from pipeline.errors import BadQuestion, NotFound, wrap
from pipeline.seams import AnswerWriter
from pipeline.types import Answer, AskOptions, Fusion, Passage, Question
from pipeline.wiring import Parts

if TYPE_CHECKING:
    from tasks.client import Client

Kb = Annotated[str, typer.Option("--kb", help="Knowledge base.")]
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
MAX_INPUT_BYTES = 4_000_000


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(ask)
    app.command()(result)
    app.command()(search)


def ask(
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    kb: Kb = "default",
    tenant: Tenant = "default",
    top_k: TopK = None,
    min_score: MinScore = None,
    alpha: Alpha = None,
    fusion: FusionOption = "scores",
    parents: Parents = None,
    show_context: Annotated[bool, typer.Option("--show-context", help="Print the passages answered from.")] = False,
    local: Annotated[bool, typer.Option("--local", help="Run all stages in this process, without a broker.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the id and leave; `result ID` reads the answer.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.1, help="Seconds until the question must end.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Chat model for this answer.")] = None,
    reasoning_effort: Annotated[str | None, typer.Option("--reasoning-effort", help="Passed on to the model.")] = None,
    verbosity: Annotated[str | None, typer.Option("--verbosity", help="Passed on to the model.")] = None,
    as_json: Json = False,
) -> None:
    """Ask a question; the answer streams in, then its citations and where the time went."""
    from pipeline.ask.question import new_question

    parts = current_parts()
    options = _options(parts, top_k, min_score, alpha, fusion, parents).model_copy(
        update={"model": model, "reasoning_effort": reasoning_effort, "verbosity": verbosity}
    )
    text = read_question(question)
    client = None if local else client_of(parts)
    asked = new_question(text, parts.settings, kb=kb, tenant=tenant, options=options, timeout=timeout)
    if client is None:
        answer = _ask_here(parts, asked, quiet=as_json)
    else:
        client.submit(asked)
        if detach:
            say_json({"id": asked.id}) if as_json else say(asked.id)
            return
        answer = _follow(client, asked, quiet=as_json)
    _print_answer(parts, answer, asked, show_context=show_context, as_json=as_json, streamed=True)


def result(
    question_id: Annotated[str, typer.Argument(metavar="ID", help="What `ask --detach` printed.")],
    show_context: Annotated[bool, typer.Option("--show-context", help="Print the passages answered from.")] = False,
    as_json: Json = False,
) -> None:
    """Read the answer of a question asked before. Exit status 3 while it isn't finished."""
    parts = current_parts()
    try:
        uuid.UUID(question_id)
    except ValueError:
        raise NotFound(f"{question_id!r} is not an id.", "`ask --detach` prints one.") from None
    record = parts.questions.find(question_id)
    answer = client_of(parts).result(question_id)
    if answer is None:
        say_json({"id": question_id, "status": record.status}) if as_json else note("Not finished yet.")
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
    options = _options(parts, top_k, min_score, alpha, fusion, parents)
    begun = time.perf_counter()
    question = new_question(read_question(query), parts.settings, kb=kb, tenant=tenant, options=options)
    state = retrieve(question, parts)
    spent = (time.perf_counter() - begun) * 1000
    if as_json:
        say_json({"passages": state.passages, "timings": state.timings, "total_ms": spent})
        return
    for number, passage in enumerate(state.passages, start=1):
        say(f"{number:>2}. {place(passage)}", style="bold")
        vector, keyword = _score(passage.vector_score), _score(passage.keyword_score)
        say(f"    score {passage.score:.3f} · vector {vector} · keyword {keyword}", style="dim")
        say(f"    {_excerpt(passage.text)}")
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
    if passage.section and passage.section != passage.title:
        parts.append(passage.section)
    if passage.page is not None:
        parts.append(f"page {passage.page}")
    return " · ".join(parts)


def _options(
    parts: Parts, top_k: int | None, min_score: float | None, alpha: float | None, fusion: str, parents: bool | None
) -> AskOptions:
    if fusion not in ("scores", "rrf"):
        raise typer.BadParameter("--fusion takes scores or rrf")
    method: Fusion = "rrf" if fusion == "rrf" else "scores"
    return AskOptions(
        top_k=top_k or parts.settings.top_k,
        min_score=min_score,
        alpha=alpha,
        fusion=method,
        parents=parts.settings.parents if parents is None else parents,
    )


def _ask_here(parts: Parts, question: Question, *, quiet: bool) -> Answer:
    from pipeline.ask import flow

    parts.questions.submit(question)
    try:
        screen = _Screen(quiet)
        answer = flow.run(question, parts, screen)
        screen.correct(answer)
        return answer
    except Exception as error:
        parts.questions.fail(question.id, wrap(error), epoch=question.epoch)
        raise


def _follow(client: Client, question: Question, *, quiet: bool) -> Answer:
    screen = _Screen(quiet)
    try:
        for event in client.follow(question):
            if event.kind == "begin":
                screen.open(question.id, int(event.value))
            elif event.kind == "text":
                screen.write(str(event.value))
        answer = client.result(question.id)
    except KeyboardInterrupt:
        note(f"\nLeft. The answer will be there: manage.py result {question.id}")
        raise
    if answer is None:
        raise NotFound("The result is not there any more.", f"Try `manage.py result {question.id}`.")
    screen.correct(answer)
    return answer


class _Screen:
    """Prints an answer while it is written."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._begun = False
        self._shown: list[str] = []

    def open(self, question_id: str, attempt: int) -> AnswerWriter:
        if self._begun and not self._quiet:
            note("\n(a worker was lost or a call failed: the answer starts again)")
        self._begun = True
        self._shown.clear()
        return self

    def write(self, text: str) -> None:
        if not self._quiet:
            self._shown.append(text)
            sys.stdout.write(plain(text))
            sys.stdout.flush()

    def correct(self, answer: Answer) -> None:
        """Print the answer as it was recorded where that differs from what was seen, as after a citation of nothing."""
        if not self._quiet and "".join(self._shown).strip() != answer.text.strip():
            note("\n(as checked and recorded:)")
            say(answer.text)

    def close(self) -> None:
        pass


def _print_answer(
    parts: Parts, answer: Answer, asked: Question, *, show_context: bool, as_json: bool, streamed: bool
) -> None:
    context = _context(parts, answer, asked) if show_context else []
    if as_json:
        say_json(answer.model_dump(mode="json") | ({"context": context} if show_context else {}))
        return
    if streamed:
        sys.stdout.write("\n")
    else:
        say(answer.text)
    if answer.mode == "extractive":
        note("(extractive: sentences of the passages, no model wrote this)")
    _print_citations(answer)
    for passage in context:
        say(f"\n── {place(passage)} (score {passage.score:.3f})", style="bold")
        say(passage.text)
    for flag in answer.flags:
        note(f"flag: {flag.rule} in {flag.where}: {_excerpt(flag.excerpt)}")
    if answer.degraded:
        note(f"degraded: {', '.join(answer.degraded)}")
    _print_timings(answer)


def _context(parts: Parts, answer: Answer, asked: Question) -> list[Passage]:
    from pipeline.retrieve.reading import read

    kb_id = parts.knowledge_bases.find(asked.tenant, asked.kb).id
    found = read(answer.passages, kb_id, texts=parts.passages, parents=asked.options.parents)
    texts = {passage.chunk_id: passage.text for passage in found}
    gone = "(no longer stored: the document has changed since)"
    return [p.model_copy(update={"text": texts.get(p.chunk_id, gone)}) for p in answer.passages]


def _print_citations(answer: Answer) -> None:
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
        [t.stage, round(t.queue_ms, 1), round(t.run_ms, 1), t.worker, t.attempt] for t in answer.timings
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
