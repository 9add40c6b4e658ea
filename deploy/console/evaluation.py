"""``eval``: how well each branch retrieves, on a labelled collection."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.console.context import current_parts
from deploy.console.ingesting import start_run, watch
from deploy.console.listing import Sources
from deploy.console.output import Json, counting, note, say_json, say_table
from pipeline.errors import InternalFault
from pipeline.ingest.origins import encode_path
from pipeline.types import RecordFields, RunOptions


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("eval")(evaluate)


def evaluate(
    folder: Annotated[Path, typer.Argument(help="corpus.jsonl, queries.jsonl and qrels.tsv (BEIR's layout).")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many queries.")] = None,
    as_json: Json = False,
) -> None:
    """Ingest a labelled collection into a knowledge base of its own and measure retrieval.

    nDCG@10, recall@5, recall@10 and MRR for the vector branch, the keyword branch and the fused search, with the time
    per query, embedding included.
    """
    from pipeline import evaluation

    parts = current_parts()
    collection = evaluation.load_collection(folder, limit)
    tenant, name = "default", f"eval-{folder.resolve().name}"
    options = RunOptions(
        roots=(encode_path(os.path.abspath(collection.corpus)),),
        fields=RecordFields(text=("text",), title="title", id="_id"),
        prune=True,
    )
    run_id, _ = start_run(parts, tenant, name, Sources([collection.corpus]), options, quiet=as_json)
    ingested = watch(parts, run_id, quiet=as_json)
    if not as_json:
        note(f"{ingested['indexed']:,} documents indexed, {ingested['unchanged']:,} unchanged, {ingested['seconds']} s")
    if ingested["failed"] or ingested["status"] != "done":
        note(f"{ingested['failed']} documents could not be ingested; see `manage.py docs list --kb {name}`.")
    if not ingested["indexed"] + ingested["unchanged"]:
        raise InternalFault("Nothing of the collection could be ingested.")
    kb = parts.knowledge_bases.find(tenant, name)
    rankings = evaluation.rank(kb, collection, parts, _counter(len(collection.queries), quiet=as_json))
    rows = {branch: evaluation.measure(ranking, collection.judgements) for branch, ranking in rankings.items()}
    _print(folder, kb.store, kb.embedding_model, len(collection.queries), rows, ingested, as_json=as_json)


def _counter(total: int, *, quiet: bool) -> Any:
    def show(number: int) -> None:
        if not quiet:
            counting(f"{number}/{total} queries", last=number == total)

    return show


def _print(
    folder: Path,
    store: str,
    model: str,
    queries: int,
    rows: dict[str, dict[str, float]],
    ingested: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    name = folder.resolve().name
    if as_json:
        facts = {"collection": name, "store": store, "model": model, "queries": queries}
        say_json(facts | {"branches": rows, "ingest": ingested})
        return
    columns = ("ndcg@10", "recall@5", "recall@10", "mrr", "ms_p50", "ms_p95")
    table = [[branch, *(row[column] for column in columns)] for branch, row in rows.items()]
    say_table(f"{name}: {queries} queries, {store}, {model}", ("branch", *columns), table)
