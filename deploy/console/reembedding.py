"""``kb reembed``, ``kb restore``, ``kb forget-previous``: another embedding model for a knowledge base that goes on
answering.
"""

from __future__ import annotations

import shlex
import uuid
from typing import Annotated

import typer

from deploy.console.asking import Tenant
from deploy.console.context import client_of, current_parts
from deploy.console.ids import of_tenant
from deploy.console.ingesting import Detach, listing_for
from deploy.console.output import Json, counting, note, say, say_json
from deploy.console.watching import end_with, watch
from pipeline.errors import BadSettings, Conflict
from pipeline.ingest import flow, reembed
from pipeline.matching import require_match, require_store
from pipeline.types import IndexRef, KnowledgeBase
from pipeline.wiring import Parts

Name = Annotated[str, typer.Argument(help="Name of the knowledge base.")]


def add_to(kb: typer.Typer) -> None:
    """Register the commands in the group ``kb``."""
    kb.command("reembed")(kb_reembed)
    kb.command("restore")(kb_restore)
    kb.command("forget-previous")(kb_forget_previous)


def kb_reembed(
    name: Name,
    model: Annotated[str, typer.Option("--model", help="The embedding model to change to.")] = "",
    dimensions: Annotated[
        int | None, typer.Option("--dimensions", min=1, help="Length of its vectors, if not its own.")
    ] = None,
    tenant: Tenant = "default",
    abandon: Annotated[bool, typer.Option("--abandon", help="Give up a half-built index, and free it.")] = False,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Build an index for another embedding model, and change to it when it is whole; until then the old one answers.

    Ctrl-C cancels the run; the same command goes on with it, and pays for no text twice.
    """
    parts = current_parts()
    kb = parts.knowledge_bases.find(tenant, name)
    if abandon:
        _abandon(parts, kb, as_json=as_json)
        return
    if not model:
        raise BadSettings("No model is named.", "Give --model NAME, or --abandon to give up a half-built index.")
    target = IndexRef(kb_id=kb.id, model=model, dimensions=parts.dimensions_of(model, dimensions))
    _change(parts, kb, target, detach=detach, as_json=as_json)


def kb_restore(name: Name, tenant: Tenant = "default", detach: Detach = False, as_json: Json = False) -> None:
    """Change back to the model before the last change; only what was added since then is written to its index."""
    parts = current_parts()
    kb = parts.knowledge_bases.find(tenant, name)
    if kb.previous is None:
        command = f"manage.py kb reembed {shlex.quote(name)} --model …{of_tenant(tenant)}"
        raise Conflict(f"{name!r} has no previous index.", f"`{command}` builds any.")
    _change(parts, kb, kb.previous, detach=detach, as_json=as_json)


def kb_forget_previous(name: Name, tenant: Tenant = "default", as_json: Json = False) -> None:
    """Free the index that was kept when the model was changed; after that there is no quick way back."""
    parts = current_parts()
    kb = parts.knowledge_bases.find(tenant, name)
    require_store(kb, parts.settings)
    timeout = parts.settings.write_timeout
    freed = reembed.forget_previous(kb, indexes=parts.indexes, store=parts.store, timeout=timeout)
    say_json({"forgotten": freed}) if as_json else note(f"Freed the index of {name!r} for {freed.vector_space}.")


def _abandon(parts: Parts, kb: KnowledgeBase, *, as_json: bool) -> None:
    require_store(kb, parts.settings)
    timeout = parts.settings.write_timeout
    given_up = reembed.abandon(kb, indexes=parts.indexes, store=parts.store, timeout=timeout)
    said = f"Gave up the index of {kb.name!r} for {given_up.vector_space}."
    say_json({"abandoned": given_up}) if as_json else note(said)


def _change(parts: Parts, kb: KnowledgeBase, target: IndexRef, *, detach: bool, as_json: bool) -> None:
    _require_service(parts, kb.served_from(target))
    run_id = _start(parts, target, quiet=as_json)
    if detach:
        say_json({"run": run_id}) if as_json else say(run_id)
        return
    end_with(watch(parts, run_id, quiet=as_json), as_json=as_json)


def _require_service(parts: Parts, kb: KnowledgeBase) -> None:
    """Raise what is wrong with the new model now, rather than once for each batch."""
    require_match(kb, parts.settings)
    found = parts.embedder_for(kb).embed(["Is anybody there?"], timeout=parts.settings.embed_timeout)
    if len(found.vectors[0]) != kb.dimensions:
        hint = f"Give --dimensions {len(found.vectors[0])}, or leave it out."
        raise BadSettings(f"{kb.embedding_model} gives {len(found.vectors[0])} dimensions.", hint)


def _start(parts: Parts, target: IndexRef, *, quiet: bool) -> str:
    client = client_of(parts)
    run_id, found = str(uuid.uuid4()), 0
    # To find what an index lacks takes a look at all of it.
    with listing_for(parts, run_id):
        for found in flow.begin_reembed(run_id, target, parts):
            if not quiet:
                counting(f"{found:,} documents", last=False)
        if not quiet:
            counting(f"{found:,} documents for {target.vector_space} in run {run_id}", last=True)
        client.start_run(run_id)
    return run_id
