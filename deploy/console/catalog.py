"""``kb`` and ``docs``: what there is, and taking it away."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.console import reembedding
from deploy.console.asking import Kb, Tenant, place
from deploy.console.confirming import Yes, confirm, counted
from deploy.console.context import current_parts
from deploy.console.ids import of_tenant
from deploy.console.output import Json, note, say, say_json, say_table
from deploy.console.reembedding import Name
from pipeline.errors import BadSettings
from pipeline.ingest.origins import encode_path
from pipeline.wiring import Parts


def add_to(app: typer.Typer) -> None:
    """Register the two groups of commands."""
    kb = typer.Typer(help="Knowledge bases: list, create, show, reembed, delete.", no_args_is_help=True)
    kb.command("list")(kb_list)
    kb.command("create")(kb_create)
    kb.command("show")(kb_show)
    kb.command("delete")(kb_delete)
    reembedding.add_to(kb)
    docs = typer.Typer(help="Documents of a knowledge base: list, show, delete.", no_args_is_help=True)
    docs.command("list")(docs_list)
    docs.command("show")(docs_show)
    docs.command("delete")(docs_delete)
    app.add_typer(kb, name="kb")
    app.add_typer(docs, name="docs")


def kb_list(tenant: Tenant = "default", as_json: Json = False) -> None:
    """Knowledge bases with their sizes."""
    parts = current_parts()
    rows = [
        kb.model_dump(mode="json") | parts.knowledge_bases.counts(kb.id) for kb in parts.knowledge_bases.list(tenant)
    ]
    if as_json:
        say_json(rows)
        return
    columns = ("name", "documents", "failed", "chunks", "embedding_model", "dimensions", "store")
    say_table("", columns, [[row[column] for column in columns] for row in rows])
    if not rows:
        note(f"None yet: `manage.py ingest PATH{of_tenant(tenant)}` makes one.")


def kb_create(name: Name, tenant: Tenant = "default", as_json: Json = False) -> None:
    """Make an empty knowledge base for the embedding model and store in use."""
    parts = current_parts()
    settings = parts.settings
    kb = parts.knowledge_bases.create(
        tenant, name, model=settings.embedder_name, dimensions=parts.embedder.dimensions, store=settings.store_name
    )
    say_json(kb.model_dump(mode="json")) if as_json else note(f"Made {name!r} for {kb.embedding_model} in {kb.store}.")


def kb_show(name: Name, tenant: Tenant = "default", as_json: Json = False) -> None:
    """One knowledge base: model, store, sizes; the model it is being changed to, and the one it had before."""
    parts = current_parts()
    kb = parts.knowledge_bases.find(tenant, name)
    facts = kb.model_dump(mode="json") | parts.knowledge_bases.counts(kb.id)
    if as_json:
        say_json(facts)
        return
    others = {"building": kb.building, "previous": kb.previous}
    for key, value in (facts | {key: index and index.vector_space for key, index in others.items()}).items():
        say(f"{key:<16} {_shown(value)}")


def kb_delete(name: Name, tenant: Tenant = "default", yes: Yes = False, as_json: Json = False) -> None:
    """Delete a knowledge base with all its documents and vectors."""
    parts = current_parts()
    kb = parts.knowledge_bases.find(tenant, name)
    counts = parts.knowledge_bases.counts(kb.id)
    confirm(f"Delete {name!r} with {counted(counts['documents'], 'document')}?", yes=yes, as_json=as_json)
    if kb.store != parts.settings.store_name:
        raise BadSettings(
            f"Knowledge base {name!r} lives in {kb.store}, but {parts.settings.store_name} is in use.",
            f"Set CELERIAC_STORE={kb.store} to delete its vectors too.",
        )
    timeout = parts.settings.write_timeout
    parts.runs.cancel_all(kb.id)
    for index in kb.all_indexes:
        parts.store.drop(index, timeout=timeout)
    parts.knowledge_bases.delete(kb.id)
    for index in kb.all_indexes:
        parts.store.drop(index, timeout=timeout)  # a batch under way may have written once more
    say_json({"deleted": name, **counts}) if as_json else note(f"Deleted {name!r}.")


def docs_list(
    kb: Kb = "default",
    tenant: Tenant = "default",
    status: Annotated[str, typer.Option("--status", help="Only live, failed or pending ones.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
    as_json: Json = False,
) -> None:
    """Documents with their state."""
    parts = current_parts()
    if status not in ("", "live", "failed", "pending"):
        raise BadSettings(f"--status {status!r} is none.", "It takes live, failed or pending.")
    found = parts.knowledge_bases.find(tenant, kb)
    rows = parts.passages.documents(found.id, status=status, limit=limit)
    if as_json:
        say_json(rows)
        return
    columns = ("id", "status", "chunks", "title", "key")
    say_table("", columns, [[row[column] for column in columns] for row in rows])
    for row in rows:
        if row["error"]:
            say(f"{row['key']}: {row['error']['message']} {row['error']['hint']}", style="red")
    if len(rows) == limit:
        note(f"The first {limit}; more with --limit.")


def docs_show(
    name: Annotated[str, typer.Argument(metavar="ID|KEY|FILE", help="Document id, key, or the file it came from.")],
    kb: Kb = "default",
    tenant: Tenant = "default",
    chunks: Annotated[bool, typer.Option("--chunks", help="Print its chunks too.")] = False,
    as_json: Json = False,
) -> None:
    """One document: source, aliases, metadata, generation, sizes, error."""
    parts = current_parts()
    found = parts.knowledge_bases.find(tenant, kb)
    document = _document(parts, found.id, name)
    pieces = parts.passages.chunks(document["id"]) if chunks else []
    if as_json:
        say_json(document | ({"passages": pieces} if chunks else {}))
        return
    for key, value in document.items():
        say(f"{key:<14} {_shown(value)}")
    for piece in pieces:
        say(f"\n── {place(piece)}, characters {piece.start}–{piece.end}", style="bold")
        say(piece.text)


def docs_delete(
    name: Annotated[str, typer.Argument(metavar="ID|KEY|FILE", help="Document id, key, or the file it came from.")],
    kb: Kb = "default",
    tenant: Tenant = "default",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete one document with its vectors."""
    from pipeline.ingest.removal import remove
    from pipeline.matching import require_store

    parts = current_parts()
    found = parts.knowledge_bases.find(tenant, kb)
    require_store(found, parts.settings)
    document = _document(parts, found.id, name)
    chunks = counted(document["chunks"], "chunk")
    confirm(f"Delete {document['key']!r} with {chunks}?", yes=yes, as_json=as_json)
    timeout = parts.settings.write_timeout
    remove([document["id"]], found.all_indexes, documents=parts.documents, store=parts.store, timeout=timeout)
    parts.knowledge_bases.refresh_size(found.id)
    say_json({"deleted": document["key"]}) if as_json else note(f"Deleted {document['key']}.")


def _shown(value: Any) -> str:
    if value is None or value in ([], {}):
        return "–"
    if isinstance(value, list):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _document(parts: Parts, kb_id: str, name: str) -> dict[str, Any]:
    """By id or key; a file may also be named as the shell knows it."""
    path = Path(name)
    known = encode_path(os.path.abspath(path)) if path.exists() else name
    return parts.passages.document(kb_id, known)
