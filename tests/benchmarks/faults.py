"""Ingest while the embedding service refuses, then fails and hangs: does it end complete, and what was paid in vain?

    python -m tests.benchmarks.faults --documents 4000 --refuses 20 --retry-after 2

Prints a table and, with --json, its twin. Starts everything it needs on free ports and stops it. With --refuses 0
--fails 0 --hangs 0 the service is healthy. ``calls_per_text`` counts the texts of all embedding requests, refused and
unanswered ones included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests import failing_service
from tests.command_line import CommandLine
from tests.standin.fixture import StandInProcess


def main() -> int:
    """Run the scenario once; exit status 1 if a document is missing or calls were wasted."""
    arguments = _arguments()
    with contextlib.ExitStack() as exits:
        standin = StandInProcess("--seed", str(arguments.seed))
        exits.callback(standin.stop)
        home = exits.enter_context(tempfile.TemporaryDirectory(prefix="celeriac-faults-", ignore_cleanup_errors=True))
        Path(home).chmod(0o711)  # Postgres does not run as root
        manage = _installation(home, standin, arguments)
        exits.callback(manage, "down")
        _done(manage("up", "--workers", str(arguments.workers), "--detach", timeout=180))
        corpus = failing_service.write_documents(Path(home) / "corpus.jsonl", arguments.documents)
        report = _run(manage, standin, corpus, arguments)
    print(json.dumps(report, indent=2) if arguments.json else _table(report))
    return 0 if report["complete"] and report["calls_per_text"] <= arguments.most else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--embedding-ms", type=float, default=300, help="latency of an embedding call")
    parser.add_argument("--refuses", type=float, default=20, help="seconds of status 429")
    parser.add_argument("--retry-after", type=float, default=2, help="what it says meanwhile")
    parser.add_argument("--fails", type=float, default=0.1, help="share of status 500 after that")
    parser.add_argument("--hangs", type=float, default=0.02, help="share of no answer after that")
    parser.add_argument("--timeout", type=float, default=30, help="CELERIAC_EMBED_TIMEOUT")
    parser.add_argument("--most", type=float, default=1.2, help="calls per text that are still good")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _installation(home: str, standin: StandInProcess, arguments: argparse.Namespace) -> CommandLine:
    cleared = dict.fromkeys(("REDIS_URL", "DATABASE_URL", "WEAVIATE_URL", "WEAVIATE_GRPC_URL"))
    own = {"OPENAI_BASE_URL": standin.url, "OPENAI_API_KEY": "stand-in", "CELERIAC_HOME": home}
    return CommandLine({**cleared, **own, "CELERIAC_EMBED_TIMEOUT": str(arguments.timeout)})


def _run(manage: CommandLine, standin: StandInProcess, corpus: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    faults = failing_service.phases(
        arguments.refuses, retry_after=arguments.retry_after, fails=arguments.fails, hangs=arguments.hangs
    )
    standin.reset()
    standin.configure(embedding_latency=arguments.embedding_ms / 1000, faults=faults)
    begun = time.monotonic()
    ingested = _done(manage("ingest", corpus, "--json", timeout=1800)).json
    seconds = time.monotonic() - begun
    seen = standin.counters()
    return {
        "documents": arguments.documents,
        "workers": arguments.workers,
        "seed": arguments.seed,
        "complete": ingested["indexed"] == arguments.documents and not ingested["failed"],
        "seconds": round(seconds, 2),
        "seconds_of_the_run": ingested["seconds"],
        "calls_per_text": round(failing_service.calls_per_text(standin, arguments.documents), 3),
        "requests": {outcome: count for outcome, count in seen["calls"].items() if outcome.startswith("embeddings")},
        "texts_asked": seen["texts_asked"],
        "most_requests_at_once": seen["max_in_flight"],
    }


def _table(report: dict[str, Any]) -> str:
    return "\n".join(f"{name:<24} {value}" for name, value in report.items())


def _done(outcome: Any) -> Any:
    if outcome.status:
        sys.exit(outcome.err or outcome.out)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
