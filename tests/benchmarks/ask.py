"""How fast Celeriac answers, what it costs, and how that compares with a plain program that does the same.

    python -m tests.benchmarks.ask --parts rate,twin,latency,flight,cached,scale,profile --stores pgvector,weaviate

rate     100 questions in flight: answers a second, and processor time for each
twin     the same questions through tests/benchmarks/ask_twin.py, on the same servers, taking turns
cached   questions that were asked before, one at a time: their time inside the pipeline
latency  time to the first piece of an answer, above what the model service itself takes; 1 and 20 in flight
flight   50, 200, 500 and 1,000 in flight: rate, time of the whole answer, memory
scale    one worker, then two
profile  where the workers' processor time goes (of `rate`)

The model service is a stand-in that takes 60 ms for an embedding, 250 ms to the first piece of an answer and 900 ms to
the last of 40. Starts everything it needs on free ports and stops it, also after Ctrl-C; Weaviate is the one in
WEAVIATE_URL, or a `weaviate` found on PATH. Prints a table; --json writes its twin. Exit status 1 where a part failed
or a question did; a target that is missed is shown, and no failure. docs/performance.md says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pipeline.errors import CeleriacError
from tests.benchmarks.ask_report import table
from tests.benchmarks.asking import Bench, Report, bench
from tests.benchmarks.choices import choices, numbers
from tests.benchmarks.questions import Upstream
from tests.benchmarks.runs import Failed, say

PARTS = ("rate", "twin", "latency", "cached", "flight", "scale", "profile")
STORES = ("pgvector", "weaviate")
TARGETS = {
    "cpu_ratio": 1.6,
    "rate_ratio": 0.85,
    "above_upstream_1_p50": 30.0,
    "above_upstream_20_p95": 120.0,
    "rate_50_share": 0.8,
    "whole_50_p95": 1500.0,
    "cached_p50": 15.0,
}


def main() -> int:
    """Run the parts asked for, one after the other; after Ctrl-C what is done is shown."""
    arguments = _arguments()
    upstream = Upstream(arguments.embedding_ms / 1000, arguments.first_ms / 1000, arguments.last_ms / 1000)
    report: Report = {
        "processors": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "upstream": upstream._asdict(),
        "targets": TARGETS,
    }
    stopped = not _fill(report, arguments, upstream)
    print(table(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 130 if stopped else int(_failed(report))


def _fill(report: Report, arguments: argparse.Namespace, upstream: Upstream) -> bool:
    """Add what each part found to the report; False: stopped by Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="celeriac-documents-") as folder:
        for name, run in _runs(arguments, upstream, Path(folder)):
            begun = time.monotonic()
            say(f"── {name}")
            part: Report = {}
            report[name] = part
            try:
                run(part)
            except (Failed, CeleriacError, subprocess.TimeoutExpired) as failure:
                part["error"] = str(failure)
            except KeyboardInterrupt:
                say("   stopped")
                return False
            finally:
                part["part_seconds"] = round(time.monotonic() - begun)
    return True


def _failed(report: Report) -> bool:
    parts = [part for part in report.values() if isinstance(part, dict)]
    return any("error" in part or any(run["errors"] for run in _loads(part)) for part in parts)


def _loads(part: Report) -> Iterator[Report]:
    """All single loads in a part of the report."""
    for value in part.values():
        for found in value if isinstance(value, list) else [value]:
            if isinstance(found, dict):
                yield from [found] if "errors" in found else _loads(found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=choices(PARTS), default=PARTS, help=f"of {','.join(PARTS)}")
    parser.add_argument("--stores", type=choices(STORES), default=STORES, help=f"of {','.join(STORES)}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--documents", type=int, default=2_000)
    parser.add_argument("--questions", type=int, default=1_000, help="of a round of rate and twin, and of scale")
    parser.add_argument("--rounds", type=int, default=2, help="of rate and twin, in turn")
    parser.add_argument("--in-flight", type=int, default=100, help="of rate, twin and scale")
    parser.add_argument("--flights", type=numbers, default=(50, 200, 500, 1_000), help="of flight")
    parser.add_argument("--flight-questions", type=int, default=2_000, help="of each flight")
    parser.add_argument("--embedding-ms", type=float, default=60)
    parser.add_argument("--first-ms", type=float, default=250, help="from the request to the first piece of an answer")
    parser.add_argument("--last-ms", type=float, default=900, help="from the request to the last of its 40 pieces")
    parser.add_argument("--limit", type=float, default=300, help="seconds that one load may take")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def _runs(
    arguments: argparse.Namespace, upstream: Upstream, folder: Path
) -> Iterator[tuple[str, Callable[[Report], None]]]:
    for store in arguments.stores:
        if set(arguments.parts) - {"scale"}:
            yield store, partial(_store, store, arguments, upstream, folder)
    if "scale" in arguments.parts:
        yield "scale", partial(_scale, arguments, upstream, folder)


def _store(store: str, arguments: argparse.Namespace, upstream: Upstream, folder: Path, found: Report) -> None:
    parts = arguments.parts
    with bench(store, arguments.workers, upstream, arguments.documents, arguments.limit, folder) as on:
        if {"rate", "twin", "profile"} & set(parts):
            found["rounds"] = [_round(on, arguments) for _ in range(arguments.rounds)]
            found |= _compared(found["rounds"])
        if "profile" in parts:
            found["profile"] = found["rounds"][-1]["celeriac"]["work"]
        if "latency" in parts:
            found["latency"] = [on.celeriac(50, 1), on.celeriac(1000, 20)]
        if "cached" in parts:
            found["cached"] = on.cached(100)
        if "flight" in parts:
            found["flight"] = [on.celeriac(arguments.flight_questions, in_flight) for in_flight in arguments.flights]


def _round(on: Bench, arguments: argparse.Namespace) -> Report:
    found = {"celeriac": on.celeriac(arguments.questions, arguments.in_flight)}
    if "twin" in arguments.parts:
        found["twin"] = on.twin(arguments.questions, arguments.in_flight)
    return found


def _compared(rounds: list[Report]) -> Report:
    """Celeriac over its twin: processor time for a question, and answers a second."""
    if "twin" not in rounds[0]:
        return {}
    mean = {
        who: {key: sum(pair[who][key] for pair in rounds) / len(rounds) for key in ("cpu_ms", "per_second")}
        for who in ("celeriac", "twin")
    }
    return {
        "cpu_ratio": round(mean["celeriac"]["cpu_ms"] / mean["twin"]["cpu_ms"], 2),
        "rate_ratio": round(mean["celeriac"]["per_second"] / mean["twin"]["per_second"], 2),
    }


def _scale(arguments: argparse.Namespace, upstream: Upstream, folder: Path, found: Report) -> None:
    found["store"] = arguments.stores[0]
    for workers in (1, 2):
        with bench(found["store"], workers, upstream, arguments.documents, arguments.limit, folder) as on:
            found[str(workers)] = on.celeriac(arguments.questions, arguments.in_flight)
    found["ratio"] = round(found["2"]["per_second"] / found["1"]["per_second"], 2)


if __name__ == "__main__":
    sys.exit(main())
