"""How fast Celeriac ingests, what it costs, and how that compares with a plain program that does the same.

    python -m tests.benchmarks.ingest --parts api,bulk,twin,memory,scale --stores pgvector,weaviate --json table.json

api     short documents, a model service that takes 300 ms per call: from submit to finalized
bulk    real abstracts with the offline embedder: rate, and who uses the processors for what
twin    the same files through tests/benchmarks/twin.py, on the same servers in turn: Celeriac's time over its time
memory  peak memory of every process and of Redis for few and for many documents
scale   one worker, then two

Starts everything it needs on free ports and stops it, also after Ctrl-C; Weaviate is the one in WEAVIATE_URL, or a
`weaviate` found on PATH. Prints a table; --json writes its twin. Exit status 1 where a part failed or a document did;
a target that is missed is shown, and no failure. docs/performance.md says what each figure means.
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
from typing import Any

from pipeline.errors import CeleriacError
from tests.benchmarks import corpus, runs, servers
from tests.benchmarks.choices import choices, numbers
from tests.benchmarks.report import table
from tests.benchmarks.runs import Failed

PARTS = ("api", "bulk", "twin", "memory", "scale")
STORES = ("pgvector", "weaviate")
TARGETS = {"api_seconds": 4.0, "overhead_share": 0.30, "wall_ratio": 1.3}

Report = dict[str, Any]


def main() -> int:
    """Run the parts asked for, one after the other; after Ctrl-C what is done is shown."""
    arguments = _arguments()
    report: Report = {"processors": os.cpu_count(), "targets": TARGETS}
    stopped = not _fill(report, arguments)
    print(table(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    failed = any("error" in part for part in report.values() if isinstance(part, dict))
    return 130 if stopped else int(failed)


def _fill(report: Report, arguments: argparse.Namespace) -> bool:
    """Add what each part found to the report; False: stopped by Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="celeriac-corpus-") as folder:
        for name, run in _runs(arguments, Path(folder)):
            begun = time.monotonic()
            runs.say(f"── {name}")
            try:
                report[name] = run()
            except (Failed, CeleriacError, subprocess.TimeoutExpired) as failure:
                report[name] = {"error": str(failure)}
            except KeyboardInterrupt:
                runs.say("   stopped")
                return False
            report[name]["part_seconds"] = round(time.monotonic() - begun)
    return True


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=choices(PARTS), default=PARTS, help="of api,bulk,twin,memory,scale")
    parser.add_argument("--stores", type=choices(STORES), default=STORES, help="of pgvector,weaviate")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--passages", type=int, default=50_000, help="of bulk and twin")
    parser.add_argument("--rounds", type=int, default=1, help="of bulk and twin, in turn")
    parser.add_argument("--api-documents", type=int, default=1_458)
    parser.add_argument("--api-ms", type=float, default=300, help="latency of an embedding call")
    parser.add_argument("--memory-documents", type=numbers, default=(10_000, 100_000), metavar="FEW,MANY")
    parser.add_argument("--scale-passages", type=int, default=20_000)
    parser.add_argument("--twin-processes", type=int, default=0, help="processes that cut and embed; 0: threads")
    parser.add_argument("--limit", type=float, default=1_200, help="seconds that one ingest may take")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def _runs(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Callable[[], Report]]]:
    parts = arguments.parts
    for store in arguments.stores:
        if "api" in parts:
            yield f"api {store}", partial(_api, store, arguments, folder)
        if "bulk" in parts or "twin" in parts:
            yield f"bulk {store}", partial(_bulk, store, arguments, folder)
    if "memory" in parts:
        yield "memory", partial(_memory, arguments, folder)
    if "scale" in parts:
        yield "scale", partial(_scale, arguments, folder)


def _api(store: str, arguments: argparse.Namespace, folder: Path) -> Report:
    with servers.standin(embedding_latency=arguments.api_ms / 1000) as standin:
        environment = {"OPENAI_BASE_URL": standin.url, "OPENAI_API_KEY": "stand-in"}
        with servers.measured_stack(store, arguments.workers, environment) as stack:
            runs.warm_up(stack, folder)
            standin.reset()
            standin.configure(embedding_latency=arguments.api_ms / 1000)
            file = corpus.write_short(folder / "api.jsonl", arguments.api_documents, copy=1)
            found = runs.ingest(stack, file, arguments.limit, standin=standin.pid)
            seen = standin.counters()
    calls = {"calls": sum(seen["calls"].values()), "texts": seen["texts"], "calls_at_once": seen["max_in_flight"]}
    return {**found, **calls, "ms_per_call": arguments.api_ms}


def _bulk(store: str, arguments: argparse.Namespace, folder: Path) -> Report:
    found: Report = {"rounds": []}
    with servers.measured_stack(store, arguments.workers) as stack:
        runs.warm_up(stack, folder)
        for number in range(arguments.rounds):
            file = corpus.write_passages(folder / "bulk.jsonl", arguments.passages, copy=1 + 1000 * number)
            pair = {"celeriac": runs.ingest(stack, file, arguments.limit)}
            if "twin" in arguments.parts:
                pair["twin"] = runs.twin(stack, file, arguments.twin_processes, arguments.limit)
            found["rounds"].append(pair)
    return found | (_ratios(found["rounds"]) if "twin" in arguments.parts else {})


def _ratios(rounds: list[dict[str, Report]]) -> Report:
    """Celeriac over its twin: wall time from submit to finalized, and processor time of everything involved."""
    total = {
        who: {key: sum(pair[who][key] for pair in rounds) for key in ("seconds", "cpu_seconds")} for who in rounds[0]
    }
    return {
        "wall_ratio": round(total["celeriac"]["seconds"] / total["twin"]["seconds"], 2),
        "cpu_ratio": round(total["celeriac"]["cpu_seconds"] / total["twin"]["cpu_seconds"], 2),
    }


def _memory(arguments: argparse.Namespace, folder: Path) -> Report:
    found: Report = {"documents": list(arguments.memory_documents), "peak_mb": {}}
    for documents in arguments.memory_documents:
        with servers.measured_stack("pgvector", arguments.workers) as stack:
            file = corpus.write_short(folder / "memory.jsonl", documents, copy=1)
            used = runs.ingest(stack, file, arguments.limit)
        for kind, mb in {**used["peak_mb"], "redis used_memory": used["redis_mb"]}.items():
            found["peak_mb"].setdefault(kind, []).append(mb)
    found["ratio"] = {kind: round(mb[-1] / mb[0], 2) for kind, mb in found["peak_mb"].items() if mb[0]}
    return found


def _scale(arguments: argparse.Namespace, folder: Path) -> Report:
    found: Report = {}
    for workers in (1, 2):
        with servers.measured_stack("pgvector", workers) as stack:
            runs.warm_up(stack, folder)
            file = corpus.write_passages(folder / "scale.jsonl", arguments.scale_passages, copy=1)
            found[f"{workers}"] = runs.ingest(stack, file, arguments.limit)
    found["time_ratio"] = round(found["1"]["seconds"] / found["2"]["seconds"], 2)
    return found


if __name__ == "__main__":
    sys.exit(main())
