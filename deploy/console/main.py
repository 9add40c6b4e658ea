"""The command line: which commands there are, and what happens to an error.

Exit status: 0 done · 1 it failed · 2 what you gave can't be used · 3 not finished yet ·
4 it was cancelled · 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import typer

from deploy.console import (
    asking,
    batching,
    cancelling,
    catalog,
    chatting,
    checking,
    conversations,
    dead,
    evaluation,
    explaining,
    ingesting,
    replaying,
    runs,
    stack,
    truth,
)
from deploy.console.interrupts import STOPPED, leave_at_once
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
for register in (
    *(stack, asking, chatting, conversations, batching, cancelling, explaining, replaying, dead),
    *(ingesting, runs, catalog, evaluation, checking, truth),
):
    register.add_to(app)


def main() -> None:
    """Run a command; every error is one line on standard error and an exit status."""
    _keep_output()
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        status = STOPPED
    except BrokenPipeError:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - what is still in them has no reader
        status = 1
    except Exception as error:  # noqa: BLE001 - nobody is to read a traceback who didn't ask for one
        failure = _unwritable() if isinstance(error, OSError) else None
        failure = failure or _ours(error)
        if failure is not None:
            say_error(failure)
        status = 2 if failure is None else failure.exit_status
    leave_at_once()
    sys.exit(status or 0)


def _keep_output() -> None:
    """What standard output doesn't take stays in its buffer, also with PYTHONUNBUFFERED: see :func:`_unwritable`."""
    if sys.stdout is None:  # closed by whoever called: writing is to fail, and no other file to get its number
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w")  # noqa: SIM115 - until the end
    elif getattr(sys.stdout, "write_through", False):
        encoding, errors = sys.stdout.encoding, sys.stdout.errors
        sys.stdout = open(sys.stdout.fileno(), "w", encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115


def _unwritable() -> CeleriacError | None:
    """What is to be said where standard output takes nothing; None where it does."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # it is tried again at the end, and to succeed
        return CeleriacError(f"Standard output can't be written: {os.strerror(error.errno or 0)}.")
    return None


def _ours(error: Exception) -> CeleriacError | None:
    """The error as one of ours; None where it was told already."""
    if isinstance(error, CeleriacError):
        return error
    if isinstance(error, _MISUSE):
        return _misuse(error)
    if os.environ.get("CELERIAC_LOG_LEVEL") == "DEBUG":
        traceback.print_exception(error)
    return InternalFault(
        f"{wrap(error).message.rstrip('.')}.", "This is a defect; CELERIAC_LOG_LEVEL=DEBUG shows where."
    )


def _misuse(error: Any) -> CeleriacError | None:
    """A command line that can't be read; None for one without a command, which is answered with the help."""
    message = " ".join(error.format_message().split()).rstrip(".")
    command = error.ctx.command_path if error.ctx else "manage.py"
    return BadSettings(f"{message}.", f"See `{command} --help`.") if message else None
