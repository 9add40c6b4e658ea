"""Ingest many documents, then ask many questions at once, on real services and the stand-in for the models.

    python -m tests.benchmarks.load --store weaviate --documents 1000 --questions 100 --concurrency 50

Prints a table and, with --json, its twin. Starts everything it needs on free ports and stops it; Weaviate is the one in
WEAVIATE_URL, or a `weaviate` found on PATH.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.benchmarks import servers
from tests.command_line import CommandLine


def main() -> int:
    """Run the benchmark once; exit status 1 if a document or a question failed."""
    arguments = _arguments()
    with contextlib.ExitStack() as exits:
        environment = _environment(arguments, exits)
        manage = CommandLine(environment)
        manage.environment = {k: v for k, v in manage.environment.items() if k not in servers.OWN or k in environment}
        exits.callback(manage, "down")
        servers.done(manage("up", "--workers", str(arguments.workers), "--detach", timeout=180))
        corpus = _write_corpus(Path(environment["CELERIAC_HOME"]), arguments.documents)
        ingested = servers.done(manage("ingest", str(corpus), "--kb", "load", "--json", timeout=900)).json
        asked = _ask_all(manage, arguments)
        status = manage("status", "--json").json
    report = _report(arguments, ingested, asked, status)
    print(json.dumps(report, indent=2) if arguments.json else _table(report))
    return 0 if not ingested["failed"] and report["errors"] == {} else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=("pgvector", "weaviate"), default="pgvector")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--embedding-ms", type=float, default=60, help="latency of an embedding call")
    parser.add_argument("--first-token-ms", type=float, default=250)
    parser.add_argument("--stream-ms", type=float, default=900)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _environment(arguments: argparse.Namespace, exits: contextlib.ExitStack) -> dict[str, str]:
    standin = servers.standin(
        embedding_latency=arguments.embedding_ms / 1000,
        first_token=arguments.first_token_ms / 1000,
        stream_seconds=arguments.stream_ms / 1000,
        chunks=arguments.chunks,
    )
    url = exits.enter_context(standin).url
    home = exits.enter_context(servers.temporary_home())
    store = exits.enter_context(servers.vector_store(arguments.store)).environment
    return {"CELERIAC_HOME": str(home), "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "stand-in", **store}


def _write_corpus(folder: Path, count: int) -> Path:
    """Documents that differ: each has a subject of its own that a question can name."""
    path = folder / "corpus.jsonl"
    with path.open("w") as lines:
        for number in range(count):
            text = (
                f"Part {number} of the plant is called unit{number}. Unit{number} runs at {number * 7 % 1000} degrees "
                f"and is checked every {number % 29 + 1} days by team{number % 13}. "
                f"It was built in {1950 + number % 70}."
            )
            lines.write(json.dumps({"id": f"unit{number}", "title": f"Unit {number}", "text": text}) + "\n")
    return path


def _ask_all(manage: CommandLine, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    _adopt(manage)
    from pipeline import settings
    from pipeline.wiring import Parts
    from tasks.client import Client

    client = Client(Parts(settings.load()))

    def one(number: int) -> dict[str, Any]:
        begun = time.perf_counter()
        question = client.question(f"How often is unit{number * 7 % arguments.documents} checked?", kb="load")
        try:
            client.submit(question)
            first = None
            for event in client.follow(question):
                if event.kind == "text" and first is None:
                    first = time.perf_counter() - begun
            answer = client.result(question.id)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}", "seconds": time.perf_counter() - begun}
        cited = len(answer.citations) if answer else 0
        return {"first": first, "seconds": time.perf_counter() - begun, "citations": cited}

    one(0)  # the client's own connections
    with ThreadPoolExecutor(arguments.concurrency) as pool:
        return list(pool.map(one, range(arguments.questions)))


def _adopt(manage: CommandLine) -> None:
    """Make this process a client of the stack that ``manage`` has started."""
    from deploy.local.state import read_state

    state = read_state(Path(manage.environment["CELERIAC_HOME"]))
    assert state is not None
    for name in servers.OWN:
        os.environ.pop(name, None)
    os.environ.update(
        {**{k: manage.environment[k] for k in servers.OWN if k in manage.environment}, **state.environment}
    )


def _report(
    arguments: argparse.Namespace, ingested: dict[str, Any], asked: list[dict[str, Any]], status: dict[str, Any]
) -> dict[str, Any]:
    good = [one for one in asked if "error" not in one]
    return {
        "store": arguments.store,
        "documents": ingested["indexed"],
        "documents_failed": ingested["failed"],
        "ingest_seconds": ingested["seconds"],
        "questions": len(asked),
        "concurrency": arguments.concurrency,
        "answered": len(good),
        "cited": sum(one["citations"] > 0 for one in good),
        "errors": dict(Counter(one["error"] for one in asked if "error" in one)),
        "first_token_seconds": _quantiles([one["first"] for one in good if one["first"]]),
        "answer_seconds": _quantiles([one["seconds"] for one in good]),
        "workers": {
            w["name"]: {"longest_stall_ms": w["stall_ms"], "resident_mb": w["resident_mb"]} for w in status["workers"]
        },
    }


def _quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    return {name: round(ordered[int((len(ordered) - 1) * share)], 3) for name, share in (("p50", 0.5), ("p95", 0.95))}


def _table(report: dict[str, Any]) -> str:
    return "\n".join(_lines(report))


def _lines(report: dict[str, Any]) -> Iterator[str]:
    for name, value in report.items():
        if isinstance(value, dict) and value:
            yield f"{name}:"
            yield from (f"    {key:<24} {inner}" for key, inner in value.items())
        else:
            yield f"{name:<28} {value}"


if __name__ == "__main__":
    sys.exit(main())
