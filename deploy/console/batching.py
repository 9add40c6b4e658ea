"""``batch``: many questions from a file, with their answers in another one."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.console.asking import Alpha, Cache, FusionOption, Kb, MinScore, Parents, Strict, Tenant, TopK, ask_options
from deploy.console.batch_progress import Standing, bar, failure_line, headline, summary_lines
from deploy.console.confirming import counted
from deploy.console.context import client_of, current_parts
from deploy.console.interrupts import STOPPED, heed
from deploy.console.output import Json, note, say, say_json
from deploy.console.pace import Pace
from deploy.console.progress import MOST_FAILURES, Screen
from deploy.console.watching import Ears
from pipeline.batch.identity import Terms
from pipeline.batch.inspection import Inspection, inspect
from pipeline.batch.lines import FORMATS, STDIN, QuestionFile, open_questions
from pipeline.batch.opening import STDOUT, is_stream, open_output
from pipeline.batch.output import Output
from pipeline.batch.tally import Tally
from pipeline.errors import BadSettings, CeleriacError, NotFound
from pipeline.prices import cost
from pipeline.settings import OFFLINE_GENERATOR
from pipeline.wiring import Parts

if TYPE_CHECKING:
    from tasks.batch import Asker

NOT_FINISHED = 3
# After Ctrl-C those under way get so many seconds.
_LAST_WORDS = 5.0
# Drawing, and finding the median of many, cost more than a turn.
_SHOW_EVERY = 0.5


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(batch)


def batch(
    file: Annotated[str, typer.Argument(help="Text (a question a line), CSV or JSON lines; - is standard input.")],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="Results as JSON lines; - is standard output. Else: FILE.answers.jsonl"),
    ] = None,
    in_order: Annotated[bool, typer.Option("--in-order", help="Write results in the order of the questions.")] = False,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, max=1000, help="Questions under way at once.")
    ] = 20,
    budget: Annotated[
        float | None, typer.Option("--budget", min=0, help="USD that no question is asked beyond.")
    ] = None,
    format_: Annotated[str, typer.Option("--format", help=f"What FILE is: {', '.join(FORMATS)}.")] = "",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed/--keep-failed", help="Ask again what failed the last time.")
    ] = True,
    kb: Kb = "default",
    tenant: Tenant = "default",
    top_k: TopK = None,
    min_score: MinScore = None,
    alpha: Alpha = None,
    fusion: FusionOption = "scores",
    parents: Parents = None,
    strict: Strict = None,
    cache: Cache = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.1, help="Seconds until a question must end.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Chat model for these answers.")] = None,
    reasoning_effort: Annotated[str | None, typer.Option("--reasoning-effort", help="Passed on to the model.")] = None,
    verbosity: Annotated[str | None, typer.Option("--verbosity", help="Passed on to the model.")] = None,
    as_json: Json = False,
) -> None:
    """Answer all questions of a file; the same command again goes on where the last one ended."""
    parts = current_parts()
    options = ask_options(parts, top_k, min_score, alpha, fusion, parents, strict).model_copy(
        update={"cache": cache, "model": model, "reasoning_effort": reasoning_effort, "verbosity": verbosity}
    )
    terms = Terms(tenant=tenant, kb=kb, options=options, timeout=timeout)
    path = out or (STDOUT if file == STDIN else f"{os.path.splitext(file)[0]}.answers.jsonl")
    if as_json and path == STDOUT:
        raise BadSettings("Results and --json can't both have standard output.", "Give --out FILE.")
    with open_questions(file, format_) as questions:
        found = inspect(questions, questions.name)
        _check(parts, questions.name, found, terms, budget)
        client_of(parts)
        heed()
        with open_output(path, in_order=in_order, retry_failed=retry_failed) as output:
            run = _Run(parts, questions, found.questions, terms, output, budget, quiet=as_json)
            summary = run.to_the_end(path, concurrency)
    _end_with(summary, run.tally, path, as_json=as_json)


def _check(parts: Parts, name: str, found: Inspection, terms: Terms, budget: float | None) -> None:
    """Refuse what would fail question by question, or cost nobody knows what."""
    for kb, number in found.kbs.items():
        try:
            parts.knowledge_bases.find(terms.tenant, kb or terms.kb)
        except NotFound as error:
            raise NotFound(f"{name}, line {number}: {error.message}" if kb else error.message, error.hint) from None
    for model in found.models if budget is not None else ():
        used = model or terms.options.model or parts.settings.generator_name
        if used != OFFLINE_GENERATOR and cost(used, 1, 1, parts.settings.prices) is None:
            raise BadSettings(
                f"The price of {used} is unknown, so that --budget can't hold.", "CELERIAC_PRICES takes prices."
            )


class _Run:
    """One batch, from where it is to its end."""

    def __init__(
        self,
        parts: Parts,
        questions: QuestionFile,
        count: int,
        terms: Terms,
        output: Output,
        budget: float | None,
        *,
        quiet: bool,
    ) -> None:
        self._parts = parts
        self._questions = questions
        self._count = count
        self._terms = terms
        self._output = output
        self._budget = budget
        self._quiet = quiet
        self.tally = Tally()
        self._pace, self._ears = Pace(), Ears(parts)
        self._failures_shown, self._shown_at = 0, 0.0

    def to_the_end(self, path: str, concurrency: int) -> dict[str, Any]:
        """Ask what has no result yet, and say what became of it."""
        from tasks.batch import Asker

        for result in self._output.found(self._questions, self._terms.key_of):
            self.tally.add(result)
        earlier, strangers, begun = self.tally.over, self._output.strangers, time.monotonic()
        if strangers and not self._quiet:
            note(
                f"{path} also holds {counted(strangers, 'result')} of no question in {self._questions.name}; all stay."
            )
        asker = Asker(
            self._parts,
            self._output.waiting(self._questions, self._terms.key_of),
            batch_id=self._output.batch_id,
            terms=self._terms,
            concurrency=concurrency,
            may_ask=self._is_within_budget,
        )
        with Screen(quiet=self._quiet) as screen, _stopping(asker) as stopped:
            self._follow(asker, screen, path, stopped)
        if asker.is_complete:
            self._output.end()
        left = self._count - self.tally.over
        return {
            "file": self._questions.name,
            "out": path,
            "questions": self._count,
            "earlier": earlier,
            "strangers": strangers,
            "left": left,
            "stopped": "interrupted" if stopped else "budget" if left else None,
            "seconds": round(time.monotonic() - begun, 2),
            **self.tally.to_json(),
        }

    def _is_within_budget(self, under_way: int) -> bool:
        return self._budget is None or self.tally.leaves_room(self._budget, under_way)

    def _follow(self, asker: Asker, screen: Screen, path: str, stopped: list[bool]) -> None:
        out, stopping = False, False
        try:
            for came in asker.turns():
                for result in came:
                    self._output.write(result)
                    self.tally.add(result)
                    if result.status == "failed" and self._failures_shown < MOST_FAILURES:
                        self._failures_shown += 1
                        screen.say(failure_line(result), "red")
                self._show(asker, screen)
                if asker.outage and not out:
                    screen.say(f"{asker.outage.message} The batch is not lost; waiting for it.")
                if out and not asker.outage:
                    screen.say("It is back.")
                if stopped and not stopping:
                    screen.say(f"Stopping: {asker.under_way} under way get {_LAST_WORDS:.0f} s; Ctrl-C leaves at once.")
                out, stopping = asker.outage is not None, bool(stopped)
        except CeleriacError as error:
            raise type(error)(error.message, _way_on(path), error.detail) if error.retryable else error from None

    def _show(self, asker: Asker, screen: Screen) -> None:
        now = time.monotonic()
        if now < self._shown_at + _SHOW_EVERY:
            return
        self._shown_at = now
        self._pace.saw(now, self.tally.over)
        standing = Standing(self._count, self.tally, asker.under_way, self._pace.rate)
        screen.paint(bar(standing), headline(standing))
        if not self._quiet and not asker.outage:
            with contextlib.suppress(CeleriacError):
                for warning in self._ears.deaf(self.tally.over):
                    screen.say(warning, "bold red")


@contextlib.contextmanager
def _stopping(asker: Asker) -> Iterator[list[bool]]:
    """Within, the first Ctrl-C asks no more, and the second one ends at once; what is given is true after the first."""
    stopped: list[bool] = []
    usual = signal.getsignal(signal.SIGINT)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, usual)
        stopped.append(True)
        asker.stop(_LAST_WORDS)

    signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, usual)


def _end_with(summary: dict[str, Any], tally: Tally, path: str, *, as_json: bool) -> None:
    tell = note if is_stream(path) else say
    if as_json:
        say_json(summary)
    else:
        for line in summary_lines(summary, tally):
            tell(line)
        if not is_stream(path):
            say(f"Results: {path}")
        if summary["stopped"] == "budget":
            note(f"The budget is spent: {summary['left']:,} questions were not asked. {_way_on(path)}")
        elif summary["left"]:
            note(f"Stopped: {summary['left']:,} questions are left. {_way_on(path)}")
        elif tally.failed and not is_stream(path):
            note("Mend the cause, then the same command asks the failed ones again.")
    status = {"interrupted": STOPPED, "budget": NOT_FINISHED, None: 1 if tally.failed else 0}[summary["stopped"]]
    raise typer.Exit(status)


def _way_on(path: str) -> str:
    if is_stream(path):
        return "With --out FILE it could go on from here."
    return f"What has come is kept in {path}; the same command goes on from there."
