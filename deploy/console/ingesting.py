"""``ingest``: list the sources, send the run, watch it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from deploy.console.context import client_of, current_parts
from deploy.console.interrupts import heed
from deploy.console.listing import Listed, Sources, require_prunable, require_sure
from deploy.console.output import Json, counting, note, say, say_json
from deploy.console.watching import end_with, watch
from pipeline.errors import CeleriacError, NotFound
from pipeline.ingest.manifest import write_manifest
from pipeline.leases import LeaseKeeper
from pipeline.matching import require_match
from pipeline.types import KnowledgeBase, RecordFields, RunOptions
from pipeline.wiring import Parts

Detach = Annotated[bool, typer.Option("--detach", help="Print the run's id and leave it to the workers.")]

# Seconds between two signs of life of who lists sources: standard input, a download or a folder of other files may give
# none for longer than a run may be silent.
_BEAT_EVERY = 30.0


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(ingest)


def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE…", help="Files, folders, 'patterns/*.md', URLs, buckets, - (standard input)."),
    ],
    kb: Annotated[str, typer.Option("--kb", help="Knowledge base; made if it isn't there.")] = "default",
    tenant: Annotated[str, typer.Option("--tenant", help="Tenant that owns it.")] = "default",
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove documents whose source under PATH has vanished.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Prune under an empty or missing PATH too.")] = False,
    format_: Annotated[
        str, typer.Option("--format", help="What standard input, URLs and named files are: txt, md, jsonl, csv …")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="Key of the document on standard input.")] = "stdin",
    text_field: Annotated[
        list[str] | None, typer.Option("--text-field", help="Field of a record that is its text; repeatable.")
    ] = None,
    title_field: Annotated[str, typer.Option("--title-field", help="Field of a record that is its title.")] = "",
    alias_field: Annotated[
        list[str] | None, typer.Option("--alias-field", help="Field with other names of what it is about; repeatable.")
    ] = None,
    id_field: Annotated[str, typer.Option("--id-field", help="Field of a record that identifies it.")] = "",
    metadata_field: Annotated[
        list[str] | None, typer.Option("--metadata-field", help="Field that is kept and shown; repeatable.")
    ] = None,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Read, chunk, embed and index documents; what hasn't changed since the last time costs nothing.

    Text, Markdown, HTML, PDF, DOCX, PPTX, XLSX, e-mail; JSON lines and CSV with one document per record. Exit status 1
    if some failed.
    """
    parts = current_parts()
    fields = RecordFields(
        text=tuple(text_field or ()),
        title=title_field,
        id=id_field,
        aliases=tuple(alias_field or ()),
        metadata=tuple(metadata_field or ()),
    )
    given = Sources(tuple(sources), suffix=f".{format_.lower().lstrip('.')}" if format_ else "", name=name)
    if prune:
        given = require_prunable(parts, tenant, kb, given, sure=yes)
    options = RunOptions(roots=given.roots, fields=fields, prune=prune)
    run_id, listed = start_run(parts, tenant, kb, given, options, quiet=as_json, sure=yes)
    if detach:
        say_json({"run": run_id, **listed.counts}) if as_json else say(run_id)
        return
    end_with(watch(parts, run_id, quiet=as_json) | listed.counts, as_json=as_json)


def open_knowledge_base(parts: Parts, tenant: str, name: str) -> KnowledgeBase:
    """The knowledge base, made for the parts in use if it isn't there; raises ModelMismatch. One that is there keeps
    its embedding model.
    """
    settings = parts.settings
    try:
        kb = parts.knowledge_bases.find(tenant, name)
    except NotFound:
        kb = parts.knowledge_bases.find_or_create(
            tenant, name, model=settings.embedder_name, dimensions=parts.embedder.dimensions, store=settings.store_name
        )
    require_match(kb, settings)
    return kb


def start_run(
    parts: Parts, tenant: str, name: str, given: Sources, options: RunOptions, *, quiet: bool, sure: bool = False
) -> tuple[str, Listed]:
    """Write the manifest and send the first wave; returns the run's id, and what became no source.

    The knowledge base is made if it isn't there, but not for a path that isn't. Raises BadSettings for a run that finds
    nothing and would prune all, unless the caller is ``sure``.
    """
    listed = Listed(prune=options.prune, quiet=quiet)
    sources = given.discover(parts, options.fields, listed)
    kb = open_knowledge_base(parts, tenant, name)
    if not quiet and kb.embedding_model != parts.settings.embedder_name:
        note(f"{name!r} keeps its model {kb.embedding_model}; CELERIAC_EMBEDDING_MODEL is for new knowledge bases.")
    client = client_of(parts)
    run_id = str(uuid.uuid4())
    parts.runs.create(run_id, kb.id, options)
    found = 0
    with listing_for(parts, run_id):
        for found in _manifest(parts, run_id, sources):
            if not quiet:
                counting(f"{found:,} sources", last=False)
        if not quiet and found:
            counting(f"{found:,} sources in run {run_id}", last=True)
        if not found and not options.prune:
            raise NotFound("There is nothing to ingest there.", "Formats: see `manage.py ingest --help`.")
        if not found and not sure:
            require_sure(parts, kb.id, options.roots, "Nothing to ingest was found")
        listed.note_ignored()
        _note_doubles(parts, run_id, found, quiet=quiet)
        client.start_run(run_id)
    return run_id, listed


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
def listing_for(parts: Parts, run_id: str) -> Iterator[None]:
    """List the sources of a run within: that says that the run lives, and ends it with what goes wrong, since before it
    is started nobody else would.
    """
    heed()
    try:
        with LeaseKeeper(parts.runs.beat, every=_BEAT_EVERY).keeping(run_id):
            yield
    except CeleriacError as error:
        parts.runs.finish(run_id, "failed", error=error)
        raise
    except KeyboardInterrupt:
        parts.runs.finish(run_id, "cancelled")
        raise
