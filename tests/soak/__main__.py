"""Ask for a long time at a share of what is possible: does anything grow?

    python -m tests.soak --minutes 20

Measures how many questions a second can be answered (--capacity-seconds, 100 at once), then asks at 60 % of that rate
whether or not earlier questions are answered. Most differ; one in five was asked before. Every few seconds it looks at
the resident memory and the descriptors of each worker, the keys and the memory of Redis, and the connections of
Postgres. After a warm-up, memory must gain less than 1 MB with a thousand questions (least squares), and the mean of
every count over the last third of the time must be that of the first, or not much more. Streams, results and caches
live for a minute here instead of an hour or a day, so that keys level out within the run. Exit status 1 where something
grew, a key has no time to live, or a question was not answered in full.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos.audit import left_in_redis
from tests.soak.load import Load, capacity
from tests.soak.samples import Sample, sampled_until, trends
from tests.storms import audit
from tests.storms.installation import Installation, installation
from tests.storms.weather import CALM

_EVERY = 5.0
_TOLD_EVERY = 12
_TTL = 60
_SPARE = ("parse", "ingest")


def main() -> int:
    """Soak once."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="celeriac-soak-", ignore_cleanup_errors=True) as folder:
        report = _soaked(Path(folder), arguments)
    print(json.dumps(report, indent=2) if arguments.json else _table(report))
    return 1 if report["findings"] else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--share", type=float, default=0.6, help="of the capacity")
    parser.add_argument("--workers", type=int, default=2, help="ask workers")
    parser.add_argument("--capacity-seconds", type=float, default=20.0)
    parser.add_argument("--store", choices=("pgvector", "weaviate"), default="pgvector")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _soaked(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    environment = {
        "CELERIAC_STREAM_TTL": str(_TTL),
        "CELERIAC_RESULT_TTL": str(_TTL),
        "CELERIAC_CACHE_TTL": str(_TTL),
        "PARSE_CONCURRENCY": "1",
        "INGEST_CONCURRENCY": "4",
    }
    crew = (*["ask"] * arguments.workers, "ingest", "parse", "control", "beat")
    with installation(folder, arguments.store, crew=crew, environment=environment) as here:
        here.ingest(folder)
        here.spare(*_SPARE)
        here.services.standin.configure(**CALM)
        streams, seconds = here.parts.streams, arguments.capacity_seconds
        per_second = capacity(here.client, streams, concurrency=100, seconds=seconds, first=10_000_000)
        load = Load(here.client, streams, arguments.share * per_second, arguments.minutes * 60)
        load.begin()
        samples = sampled_until(lambda: load.over, here, load.ended, _EVERY, lambda sample: _tell(sample, load))
        return _report(here, arguments, per_second, load, samples)


def _tell(sample: Sample, load: Load) -> None:
    """A line now and then, for whoever waits."""
    if int(sample.at / _EVERY) % _TOLD_EVERY == 0:
        resident = ", ".join(f"{mb:.1f}" for name, mb in sample.amounts.items() if name.startswith("MB ask"))
        keys = f"{sample.amounts['redis keys']:.0f} keys"
        print(f"{sample.at:6.0f} s  {load.ended():6} questions  {resident} MB  {keys}", file=sys.stderr, flush=True)


def _report(
    here: Installation, arguments: argparse.Namespace, per_second: float, load: Load, samples: list[Sample]
) -> dict[str, Any]:
    whole = arguments.minutes * 60
    # Keys level out when the first ones have expired; memory, when every pool has what it ever needs.
    warm_up = min(max(1.5 * _TTL, 0.2 * whole), 0.5 * whole)
    found = trends(samples, warm_up)
    waits = sorted(load.waits)
    findings = [f"{trend.name} grows: {trend.per_1000:.2f} per 1,000 questions" for trend in found if not trend.flat]
    findings += [f"{count} questions: {what}" for what, count in load.outcomes.items() if what != "full"]
    findings += left_in_redis(here.services.redis_url, here.parts.settings.namespace)
    findings += [f"worker {name} died" for name in here.dead]
    if still := audit.rows(here, "SELECT count(*) AS n FROM questions WHERE status = 'queued'")[0]["n"]:
        findings.append(f"{still} questions are open")
    return {
        "store": arguments.store,
        "minutes": arguments.minutes,
        "capacity_per_second": round(per_second, 1),
        "asked_per_second": round(arguments.share * per_second, 1),
        "questions": len(waits),
        "p50_s": round(waits[len(waits) // 2], 3),
        "p95_s": round(waits[int(len(waits) * 0.95)], 3),
        "warm_up_s": warm_up,
        "trends": [asdict(trend) | {"flat": trend.flat} for trend in found],
        "findings": findings,
    }


def _table(report: dict[str, Any]) -> str:
    lines = [f"{name:<24}{report[name]}" for name in report if name not in ("trends", "findings")]
    lines.append(f"\n{'after the warm-up':<28}{'first':>9}{'last':>9}{'most':>9}{'per 1,000':>11}{'thirds':>9}")
    for trend in report["trends"]:
        amounts = "".join(f"{trend[name]:>9.1f}" for name in ("first", "last", "most"))
        verdict = "" if trend["flat"] else "  GROWS"
        lines.append(f"{trend['name']:<28}{amounts}{trend['per_1000']:>11.2f}{trend['growth']:>9.1f}{verdict}")
    lines += ["", *report["findings"]] if report["findings"] else ["", "Nothing grows."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
