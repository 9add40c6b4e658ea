"""The command line: which commands there are, and what happens to an error.

Exit status: 0 done · 1 it failed · 2 what you gave can't be used · 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import sys

import click
import typer

from deploy.console import asking, catalog, checking, evaluation, ingesting, stack
from deploy.console.output import say_error
from pipeline.errors import CeleriacError

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
for register in (stack, asking, ingesting, catalog, evaluation, checking):
    register.add_to(app)


def main() -> None:
    """Run a command; every error of ours is one line on standard error and an exit status."""
    try:
        status = app(standalone_mode=False)
    except CeleriacError as error:
        say_error(error)
        status = error.exit_status
    except click.exceptions.Exit as error:
        status = error.exit_code
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        sys.stderr.write("\n")
        status = 130
    except BrokenPipeError:
        sys.stderr.close()
        status = 1
    sys.exit(status or 0)
