"""The command line: which commands there are, and what happens to an error.

Exit status: 0 done · 1 it failed · 2 what you gave can't be used · 3 not finished yet · 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import typer

from deploy.console import asking, catalog, checking, evaluation, ingesting, runs, stack, truth
from deploy.console.output import say_error
from pipeline.errors import BadSettings, CeleriacError, InternalFault, wrap

# Typer brings a click of its own, and names only this heir of what it raises for a command line it can't read.
_MISUSE: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="manage.py",
    help=(
        "Answers from your documents, with citations, by a pipeline of Celery tasks.\n\n"
        "Start with [bold]up[/bold], then [bold]ingest PATH[/bold], then [bold]ask QUESTION[/bold]. "
        "Without any key everything runs on this machine: Redis, Postgres, workers, an offline model. "
        "Set OPENAI_API_KEY, WEAVIATE_URL, REDIS_URL or DATABASE_URL to use services of your own. "
        "Every command takes --json."
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for register in (stack, asking, ingesting, runs, catalog, evaluation, checking, truth):
    register.add_to(app)


def main() -> None:
    """Run a command; every error is one line on standard error and an exit status."""
    try:
        status = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except BrokenPipeError:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - what is still in them has no reader
        status = 1
    except Exception as error:  # noqa: BLE001 - nobody is to read a traceback who didn't ask for one
        failure = _ours(error)
        if failure is not None:
            say_error(failure)
        status = 2 if failure is None else failure.exit_status
    sys.exit(status or 0)


def _ours(error: Exception) -> CeleriacError | None:
    """The error as one of ours; None where it was told already."""
    if isinstance(error, CeleriacError):
        return error
    if isinstance(error, _MISUSE):
        return _misuse(error)
    if os.environ.get("CELERIAC_LOG_LEVEL") == "DEBUG":
        traceback.print_exception(error)
    return InternalFault(wrap(error).message, "This is a defect; CELERIAC_LOG_LEVEL=DEBUG shows where.")


def _misuse(error: Any) -> CeleriacError | None:
    """A command line that can't be read; None for one without a command, which is answered with the help."""
    message = " ".join(error.format_message().split()).rstrip(".")
    command = error.ctx.command_path if error.ctx else "manage.py"
    return BadSettings(f"{message}.", f"See `{command} --help`.") if message else None
