"""A whole installation whose models limit it: how often do they refuse, and what does a bulk ingest cost people?

    python -m tests.benchmarks.limited_stack --per-minute 600 --workers 4 --seconds 40

Real ask workers, and the stand-in for both models, which enforces the limit of each model itself. Three rounds: as many
questions at once as they may be; a few people ask now and then; the same people, at the same moments, beside a bulk
ingest that uses the same key and the same limit for its embeddings. Exit status 1 where one call in a hundred or more
was refused, or people's 95th percentile rose by 30 % or more. Prints a table or, with --json, its twin.

People ask 0.8 × interactive_share × limit times a minute, at random moments (a Poisson process): that is what bulk work
leaves to them at the least, and a fifth less. The requests of the ingest are small (--texts), so that the limit binds
it and not the processors of this machine.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.storms.asking import Asked, ask
from tests.storms.installation import Installation, installation, wait_until, write_corpus
from tests.storms.weather import CALM

SHARE = 0.3
LEAST_OF_SHARE = 0.8
TIMEOUT = 60.0
MOST_REFUSED = 0.01
MOST_RISE = 0.3
_MODELS = ("text-embedding-3-small", "gpt-6-luna")
_BULK_DOCUMENTS = 20_000
_BULK_RUNS_WITHIN = 60.0


def main() -> int:
    """Run all rounds once."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="celeriac-limited-", ignore_cleanup_errors=True) as folder:
        report = _rounds(Path(folder), arguments)
    print(json.dumps(report, indent=2) if arguments.json else _table(report))
    return 0 if report["refused_share"] < MOST_REFUSED and report["rise_of_p95"] < MOST_RISE else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-minute", type=float, default=600.0, help="requests, of each model")
    parser.add_argument("--workers", type=int, default=4, help="ask workers")
    parser.add_argument("--concurrency", type=int, default=100, help="questions at once in the first round")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each round")
    parser.add_argument("--texts", type=int, default=8, help="in a request of the ingest")
    parser.add_argument("--store", choices=("pgvector", "weaviate"), default="pgvector")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _rounds(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    crew = (*["ask"] * arguments.workers, "ingest", "parse", "control", "beat")
    environment = {
        "CELERIAC_CACHE": "false",  # people ask the same at the same moments, alone and beside the ingest
        "CELERIAC_LIMITS": json.dumps({model: [arguments.per_minute, None] for model in _MODELS}),
        "CELERIAC_INTERACTIVE_SHARE": str(SHARE),
        "CELERIAC_EMBED_BATCH_TEXTS": str(arguments.texts),
        "PARSE_CONCURRENCY": "1",
    }
    with installation(folder, arguments.store, crew=crew, environment=environment) as here:
        here.ingest(folder)
        people = [arguments.seconds, arguments.per_minute / 60 * SHARE * LEAST_OF_SHARE]
        report: dict[str, Any] = {"everybody": _round(here, arguments, lambda: _hammered(here, arguments))}
        report["people alone"] = _round(here, arguments, lambda: _people(here, *people))
        run_id = _bulk(here, folder)
        report["people and bulk"] = _round(here, arguments, lambda: _people(here, *people))
        here.client.cancel_run(run_id)
    calls, refused = (sum(round_[name] for round_ in report.values()) for name in ("calls", "refused"))
    return {
        "rounds": report,
        "refused_share": round(refused / calls, 4),
        "rise_of_p95": round(report["people and bulk"]["p95_s"] / report["people alone"]["p95_s"] - 1, 3),
    }


def _round(here: Installation, arguments: argparse.Namespace, work: Any) -> dict[str, Any]:
    standin = here.services.standin
    standin.reset()
    standin.configure(**CALM, requests_per_minute=arguments.per_minute)
    begun = time.monotonic()
    asked: Sequence[Asked] = work()
    seconds = time.monotonic() - begun
    seen = standin.counters()
    made = sum(seen["calls"].values())
    refused = sum(count for name, count in seen["calls"].items() if name.endswith(" 429"))
    waits = sorted(one.seconds for one in asked)
    return {
        "seconds": round(seconds, 1),
        "questions": len(asked),
        "answered": sum(one.answer is not None for one in asked),
        "degraded": sum(bool(one.modes) for one in asked),
        "p50_s": round(waits[len(waits) // 2], 3),
        "p95_s": round(waits[int(len(waits) * 0.95)], 3),
        "calls": made,
        "calls_per_minute": round(made / seconds * 60),
        "refused": refused,
        "refused_share": round(refused / made, 4),
        "texts_of_bulk": max(0, seen["texts"] - len(asked)),
    }


def _hammered(here: Installation, arguments: argparse.Namespace) -> list[Asked]:
    """As many at once as told, each followed by the next one."""
    end = time.monotonic() + arguments.seconds

    def one_after_the_other(first: int) -> list[Asked]:
        asked = []
        while time.monotonic() < end:
            asked.append(ask(here.client, first + len(asked), TIMEOUT))
        return asked

    with ThreadPoolExecutor(arguments.concurrency) as pool:
        found = pool.map(one_after_the_other, range(100_000, 100_000 + 1000 * arguments.concurrency, 1000))
        return [one for each in found for one in each]


def _people(here: Installation, seconds: float, per_second: float) -> list[Asked]:
    """Questions at random moments, the same ones in every round."""
    dice, at, moments = random.Random(1), 0.0, []
    while (at := at + dice.expovariate(per_second)) < seconds:
        moments.append(at)
    begun = time.monotonic()
    with ThreadPoolExecutor(200) as pool:
        asked = []
        for number, moment in enumerate(moments):
            time.sleep(max(0.0, begun + moment - time.monotonic()))
            asked.append(pool.submit(ask, here.client, number, TIMEOUT))
        return [one.result() for one in asked]


def _bulk(here: Installation, folder: Path) -> str:
    """Start to ingest more than there is time for; returns the run when its embeddings are under way."""
    corpus = write_corpus(folder, _BULK_DOCUMENTS, first=1_000_000)
    run_id = here.manage("ingest", str(corpus), "--kb", "bulk", "--detach", "--json").json["run"]
    texts = here.services.standin.counters()["texts"]
    wait_until(
        lambda: here.services.standin.counters()["texts"] > texts + 200, _BULK_RUNS_WITHIN, "no bulk work is under way"
    )
    return str(run_id)


def _table(report: dict[str, Any]) -> str:
    rounds = report["rounds"]
    names = list(next(iter(rounds.values())))
    lines = [f"{'':<18}" + "".join(f"{name:>17}" for name in rounds)]
    lines += [f"{name:<18}" + "".join(f"{round_[name]:>17}" for round_ in rounds.values()) for name in names]
    lines.append(
        f"refused of all calls: {report['refused_share']:.2%}; people's p95 rose by {report['rise_of_p95']:.0%}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
