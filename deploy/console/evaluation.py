"""``eval``: how well each branch retrieves, on a labelled collection."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.console.context import current_parts
from deploy.console.ingesting import start_run
from deploy.console.listing import Sources
from deploy.console.output import Json, counting, note, say_json, say_table
from deploy.console.watching import watch
from pipeline.errors import Cancelled, DocumentError, InternalFault, from_json
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
    per query, embedding included. Exit status 1 if documents could not be ingested.
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
    _require_ingested(ingested)
    kb = parts.knowledge_bases.find(tenant, name)
    rankings = evaluation.rank(kb, collection, parts, _counter(len(collection.queries), quiet=as_json))
    rows = {branch: evaluation.measure(ranking, collection.judgements) for branch, ranking in rankings.items()}
    _print(folder, kb.store, kb.embedding_model, len(collection.queries), rows, ingested, as_json=as_json)
    if ingested["failed"]:
        message = f"{ingested['failed']:,} of {ingested['sources']:,} documents could not be ingested"
        raise DocumentError(f"{message}: the figures are those of the others.", _why(ingested))


def _require_ingested(ingested: dict[str, Any]) -> None:
    """Raise why there is nothing to measure; single documents may be missing."""
    if ingested["error"]:
        raise from_json(ingested["error"])
    if ingested["status"] == "cancelled":
        raise Cancelled("The ingest was cancelled: there is nothing to measure.", "Run the command again.")
    if ingested["status"] != "done" or not ingested["indexed"] + ingested["unchanged"]:
        raise InternalFault("Nothing of the collection could be ingested.", _why(ingested))


def _why(ingested: dict[str, Any]) -> str:
    return f"See `manage.py runs show {ingested['run']}`."


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
