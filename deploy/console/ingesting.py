"""``ingest``: list the sources, send the run, watch it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.console.context import client_of, current_parts
from deploy.console.output import Json, counting, note, say, say_json
from deploy.console.watching import end_with, watch
from pipeline.errors import CeleriacError, NotFound, UnreadableSource
from pipeline.ingest.discover import discover
from pipeline.ingest.manifest import write_manifest
from pipeline.ingest.origins import encode_path
from pipeline.matching import require_match
from pipeline.types import KnowledgeBase, RecordFields, RunOptions
from pipeline.wiring import Parts


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(ingest)


def ingest(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Files and folders.")],
    kb: Annotated[str, typer.Option("--kb", help="Knowledge base; made if it isn't there.")] = "default",
    tenant: Annotated[str, typer.Option("--tenant", help="Tenant that owns it.")] = "default",
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove documents whose source under PATH has vanished.")
    ] = False,
    text_field: Annotated[
        list[str] | None, typer.Option("--text-field", help="Field of a record that is its text; repeatable.")
    ] = None,
    title_field: Annotated[str, typer.Option("--title-field", help="Field of a record that is its title.")] = "",
    id_field: Annotated[str, typer.Option("--id-field", help="Field of a record that identifies it.")] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Print the run's id and leave it to the workers.")] = False,
    as_json: Json = False,
) -> None:
    """Read, chunk, embed and index documents; what hasn't changed since the last time costs nothing.

    Text, Markdown, HTML, PDF, DOCX, PPTX, XLSX, e-mail; JSON lines and CSV with one document per record. Exit status 1
    if some failed.
    """
    parts = current_parts()
    fields = RecordFields(text=tuple(text_field or ()), title=title_field, id=id_field)
    options = RunOptions(roots=tuple(encode_path(os.path.abspath(path)) for path in paths), fields=fields, prune=prune)
    run_id, skipped = start_run(parts, tenant, kb, paths, options, quiet=as_json)
    if detach:
        say_json({"run": run_id, "skipped": skipped}) if as_json else say(run_id)
        return
    end_with(watch(parts, run_id, quiet=as_json) | {"skipped": skipped}, as_json=as_json)


def open_knowledge_base(parts: Parts, tenant: str, name: str) -> KnowledgeBase:
    """The knowledge base, made for the parts in use if it isn't there; raises ModelMismatch."""
    settings = parts.settings
    try:
        kb = parts.knowledge_bases.find(tenant, name)
    except NotFound:
        kb = parts.knowledge_bases.find_or_create(
            tenant, name, model=settings.embedder_name, dimensions=parts.embedder.dimensions, store=settings.store_name
        )
    require_match(kb, embedding_model=settings.embedder_name, store=settings.store_name)
    return kb


def start_run(
    parts: Parts, tenant: str, name: str, paths: list[Path], options: RunOptions, *, quiet: bool
) -> tuple[str, int]:
    """Write the manifest and send the first wave; returns the run's id and how many files were skipped.

    The knowledge base is made if it isn't there, but not for a path that isn't.
    """
    skipped: list[str] = []

    def on_skip(path: Path, reason: str) -> None:
        if options.prune and _is_folder(path):
            hint = "Make it readable, or ingest without --prune: its documents would count as vanished."
            raise UnreadableSource(f"{path}: {reason}.", hint)
        skipped.append(str(path))
        if not quiet:
            note(f"skipped {path}: {reason}")

    sources = discover(paths, fields=options.fields, max_record_bytes=parts.settings.max_record_bytes, on_skip=on_skip)
    kb = open_knowledge_base(parts, tenant, name)
    client = client_of(parts)
    run_id = str(uuid.uuid4())
    parts.runs.create(run_id, kb.id, options)
    found = 0
    with _failing_run(parts, run_id):
        for found in _manifest(parts, run_id, sources):
            if not quiet:
                counting(f"{found:,} sources", last=False)
        if not quiet and found:
            counting(f"{found:,} sources in run {run_id}", last=True)
        if not found and not options.prune:
            raise NotFound("There is nothing to ingest there.", "Formats: see `manage.py ingest --help`.")
        _note_doubles(parts, run_id, found, quiet=quiet)
        client.start_run(run_id)
    return run_id, len(skipped)


def _note_doubles(parts: Parts, run_id: str, found: int, *, quiet: bool) -> None:
    doubles = found - parts.runs.progress(run_id).total
    if doubles and not quiet:
        note(f"{doubles:,} sources have the id of another one; of each id the last one counts (see --id-field).")


def _manifest(parts: Parts, run_id: str, sources: Any) -> Iterator[int]:
    settings = parts.settings
    return write_manifest(
        run_id, sources, ledger=parts.runs, max_documents=settings.batch_documents, max_tokens=settings.batch_tokens
    )


@contextmanager
def _failing_run(parts: Parts, run_id: str) -> Iterator[None]:
    try:
        yield
    except CeleriacError as error:
        parts.runs.finish(run_id, "failed", error=error)
        raise
    except KeyboardInterrupt:
        parts.runs.finish(run_id, "cancelled")
        raise


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return True  # not even that can be seen: it may be one
