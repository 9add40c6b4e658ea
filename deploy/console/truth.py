"""``fsck``: does the vector store hold what Postgres says?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from deploy.console.context import current_parts
from deploy.console.interrupts import heed
from deploy.console.output import Json, counting, err, note, say, say_json
from pipeline.errors import BadSettings
from pipeline.ingest.inspection import Example, Findings, Kind, OnProgress, inspect
from pipeline.ingest.repair import Repaired, repair
from pipeline.matching import require_store
from pipeline.types import KnowledgeBase
from pipeline.wiring import Parts

_MEANING: dict[Kind, str] = {
    "missing": "live chunks that the store lacks",
    "orphaned": "entries of the store whose chunk is gone",
    "wrong_generation": "entries of the store that belong to a generation no reader sees",
    "mismatched": "entries that name another document or generation than Postgres",
    "broken": "entries without a usable vector, or without keywords",
    "duplicate": "second entries of the same chunk",
    "wrong_count": "wrong counts of chunks",
    "empty": "live documents without a chunk",
    "leftover": "generations that no reader sees and no run will go on with",
    "index": "faults of the index as a whole",
}
_DONE = {
    "written": "chunks written",
    "deleted": "chunks deleted from the store",
    "embedded": "texts embedded",
    "recounted": "documents counted anew",
    "withdrawn": "documents marked as failed, to be ingested again",
    "forgotten": "leftover generations deleted",
}


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(fsck)


def fsck(
    kb: Annotated[str | None, typer.Option("--kb", help="Knowledge base; by default the one named default.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All knowledge bases of the tenant.")] = False,
    tenant: Annotated[str, typer.Option("--tenant", help="Tenant that owns it.")] = "default",
    mend: Annotated[bool, typer.Option("--repair", help="Put right what is found, then look again.")] = False,
    examples: Annotated[int, typer.Option("--examples", min=0, max=1000, help="Examples shown of each kind.")] = 3,
    as_json: Json = False,
) -> None:
    """Compare the vector store with Postgres, which is the truth; --repair puts the store right.

    Exit status 0 all is well, or is again · 1 something was found and not repaired.
    """
    parts = current_parts()
    if kb is not None and every:
        raise BadSettings("--kb and --all exclude each other.", "Name one knowledge base, or take all of them.")
    named = parts.knowledge_bases.list(tenant) if every else (parts.knowledge_bases.find(tenant, kb or "default"),)
    for one in named:
        require_store(one, parts.settings)
    reports = [_check(parts, one, examples, mend=mend, quiet=as_json) for one in named]
    ok = all(report["ok"] for report in reports)
    if as_json:
        say_json({"ok": ok, "knowledge_bases": reports})
    elif not reports:
        note(f"Tenant {tenant!r} has no knowledge base.")
    raise typer.Exit(0 if ok else 1)


def _check(parts: Parts, kb: KnowledgeBase, examples: int, *, mend: bool, quiet: bool) -> dict[str, Any]:
    found = _inspect(parts, kb, examples, quiet=quiet)
    report: dict[str, Any] = {"name": kb.name, "tenant": kb.tenant, "store": kb.store, "ok": found.clean}
    report |= {"found": _as_json(found)}
    if not quiet:
        _print(kb, found)
    if found.clean or not mend:
        if not quiet and not found.clean:
            note("The same command with --repair puts it right.")
        return report
    done = _repair(parts, kb, found, quiet=quiet)
    left = _inspect(parts, kb, examples, quiet=quiet)
    if not quiet:
        _print_repaired(done)
        _print(kb, left)
    return report | {"ok": left.clean, "repaired": done.model_dump(), "left": _as_json(left)}


def _inspect(parts: Parts, kb: KnowledgeBase, examples: int, *, quiet: bool) -> Findings:
    with _progress(f"{kb.name}: {{count:,}} chunks {{what}}", quiet=quiet) as on_progress:
        return inspect(
            kb,
            ledger=parts.inspection,
            store=parts.store,
            cache=parts.embeddings,
            timeout=parts.settings.write_timeout,
            examples=examples,
            on_progress=on_progress,
        )


def _repair(parts: Parts, kb: KnowledgeBase, found: Findings, *, quiet: bool) -> Repaired:
    with _progress(f"{kb.name}: {{count:,}} {{what}}", quiet=quiet) as on_progress:
        return repair(
            kb,
            ledger=parts.inspection,
            store=parts.store,
            cache=parts.embeddings,
            embedder=parts.embedder_for(kb) if found.to_embed else None,
            knowledge_bases=parts.knowledge_bases,
            timeout=parts.settings.write_timeout,
            embed_timeout=parts.settings.embed_timeout,
            on_progress=on_progress,
        )


@contextmanager
def _progress(template: str, *, quiet: bool) -> Iterator[OnProgress]:
    """A line that is written over while somebody watches, and cleared at the end."""

    def show(what: str, count: int) -> None:
        if not quiet:
            counting(template.format(count=count, what=_DONE.get(what, what)), last=False)

    heed()
    try:
        yield show
    except KeyboardInterrupt:
        note("Stopped. What was repaired stays so; run it again for the rest.")
        raise
    finally:
        if not quiet and err.is_terminal:
            err.print("\r\x1b[K", end="")


def _print(kb: KnowledgeBase, found: Findings) -> None:
    sizes = f"{kb.name}: {found.chunks:,} live chunks, {found.stored:,} entries in {kb.store}"
    say(sizes + (f", {found.pending:,} of them pending" if found.pending else ""))
    if found.clean:
        say("  all is well", style="green")
    if found.lost:
        say("  The store has lost all of it.", style="red")
    for kind, count in found.counts.items():
        say(f"  {count:>9,}  {kind.replace('_', ' ')}: {_MEANING[kind]}", style="red")
        for example in found.examples.get(kind, ()):
            say(f"             {_example(example)}", style="dim")
    if found.to_embed:
        say(f"  {found.to_embed:,} texts are not in the cache of embeddings: --repair embeds them again.")


def _print_repaired(done: Repaired) -> None:
    for what, meaning in _DONE.items():
        count = getattr(done, what)
        if count:
            say(f"  {count:>9,}  {meaning}")
    if done.mended:
        say("             the index as a whole was put right")


def _example(example: Example) -> str:
    chunk = f"chunk {example.chunk_id}" if example.chunk_id else ""
    return " · ".join(part for part in (example.document, chunk, example.detail) if part)


def _as_json(found: Findings) -> dict[str, Any]:
    return found.model_dump(mode="json") | {"lost": found.lost, "clean": found.clean}
