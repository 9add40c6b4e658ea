"""Several processes call a service that limits them: how often does it refuse, and what does bulk work cost people?

    python -m tests.benchmarks.limits --per-minute 600 --processes 4 --seconds 30

Three rounds against the stand-in, which enforces the limit itself: all processes ask as often as they may; a few people
ask now and then; the same people beside bulk work. Prints a table or, with --json, its twin. Exit status 1 where one
call in a hundred or more was refused. With --learn Celeriac is not told the limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from deploy.local.redis import start_redis
from tests import hammer
from tests.standin.fixture import StandInProcess

MODEL = "text-embedding-3-small"


def main() -> int:
    """Run all rounds once."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="celeriac-limits-") as folder:
        redis, standin = start_redis(Path(folder) / "redis", die_with_parent=True), StandInProcess()
        try:
            report = _rounds(redis.url, standin, arguments)
        finally:
            standin.stop()
            redis.stop()
    print(json.dumps(report, indent=2) if arguments.json else _table(report))
    return 0 if all(round_["refused_share"] < 0.01 for round_ in report.values()) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-minute", type=float, default=600.0, help="requests")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=8, help="of each process")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each round")
    parser.add_argument("--embedding-ms", type=float, default=60.0, help="latency of a call")
    parser.add_argument("--learn", action="store_true", help="set no limit: it is learned from the replies")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _rounds(redis_url: str, standin: StandInProcess, arguments: argparse.Namespace) -> dict[str, Any]:
    seconds, processes, threads = arguments.seconds, arguments.processes, arguments.threads
    people = {"threads": 2, "pause": 60.0 / arguments.per_minute * 20}  # a fifth of the limit
    rounds: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "everybody": [("interactive", {"threads": threads})] * processes,
        "people alone": [("interactive", people)] * 2,
        "people and bulk": [("interactive", people)] * 2 + [("bulk", {"threads": 2})] * max(1, processes - 2),
    }
    report = {}
    for name, crew in rounds.items():
        settings = _settings(redis_url, standin, arguments)
        standin.reset()
        standin.configure(embedding_latency=arguments.embedding_ms / 1000, requests_per_minute=arguments.per_minute)
        running = [hammer.start(lane, settings, seconds=seconds, **options) for lane, options in crew]
        report[name] = _seen(standin, hammer.together(running, seconds + 30), seconds)
    return report


def _settings(redis_url: str, standin: StandInProcess, arguments: argparse.Namespace) -> dict[str, Any]:
    limits = {} if arguments.learn else {MODEL: [arguments.per_minute, None]}
    own = {"namespace": f"limits-{uuid.uuid4().hex}", "limits": limits}
    served = {"OPENAI_BASE_URL": standin.url, "OPENAI_API_KEY": "stand-in", "CELERIAC_CACHE": "false"}
    return {"REDIS_URL": redis_url, **served, **own}


def _seen(standin: StandInProcess, seen: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    calls = standin.counters()["calls"]
    made, refused = sum(calls.values()), calls.get("embeddings 429", 0)
    waits = [wait for one in seen for wait in one["waits"]]
    return {
        "calls": made,
        "per_minute": round((made - refused) / seconds * 60),
        "refused": refused,
        "refused_share": round(refused / made, 4),
        "questions": len(waits),
        "p50_s": round(sorted(waits)[len(waits) // 2], 3),
        "p95_s": round(hammer.p95(waits), 3),
        "texts_of_bulk": sum(one["outcomes"].get("texts", 0) for one in seen),
        "postponed": sum(one["outcomes"].get("Postponed", 0) for one in seen),
    }


def _table(report: dict[str, Any]) -> str:
    names = list(next(iter(report.values())))
    lines = [f"{'':<16}" + "".join(f"{name:>16}" for name in report)]
    lines += [f"{name:<16}" + "".join(f"{round_[name]:>16}" for round_ in report.values()) for name in names]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
