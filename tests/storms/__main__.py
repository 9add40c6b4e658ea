"""Ask 200 questions, 50 at once, while something goes wrong: every one must end in its time, and all be well after.

    python -m tests.storms                          # all of them
    python -m tests.storms redis model --json       # two of them

Starts everything it needs on free ports and stops it. Prints a row per storm; exit status 1 if something was found, and
the logs are kept then.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from tests.storms import audit
from tests.storms.installation import installation
from tests.storms.trial import Demands, Report, Trial
from tests.storms.weather import STORMS, Storm
from tests.weaviate_server import weaviate_program

_HEAD = "{:<16}{:>7}{:>7}{:>6}{:>7}{:>7}{:>7}{:>8}{:>8}{:>9}{:>8}{:>7}  {}"
_COLUMNS = (
    *("storm", "lasted", "all in", "full", "p50", "p95", "max", "refused", "retried", "again", "full in", "slots"),
    "degraded, failed, calls",
)
_SPARE = ("parse", "ingest")


def main() -> int:
    """Run the storms one after the other; returns the exit status."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _interrupt)
    folder = Path(tempfile.mkdtemp(prefix="celeriac-storms-"))
    reports: list[Report] = []
    try:
        for report in _trials(arguments, folder):
            reports.append(report)
            if not arguments.json:
                print("\n".join([_row(report), *(f"      {finding}" for finding in report.findings)]), flush=True)
    except KeyboardInterrupt:
        print("Interrupted; everything is stopped.", file=sys.stderr)
        return 130
    finally:
        if arguments.json:
            print(json.dumps([report.to_json() for report in reports], indent=2))
        failed = [report.storm for report in reports if report.findings]
        if not failed and not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if failed:
        print(f"Storms {failed} went wrong; the logs are in {folder}.", file=sys.stderr)
    return 1 if failed else 0


def _trials(arguments: argparse.Namespace, folder: Path) -> Iterator[Report]:
    demands = Demands(arguments.questions, arguments.concurrency, arguments.timeout, arguments.slots)
    crew = (*["ask"] * arguments.workers, "ingest", "parse", "control", "beat")
    environment = {"ASK_CONCURRENCY": str(demands.slots), "PARSE_CONCURRENCY": "1", "INGEST_CONCURRENCY": "4"}
    with installation(folder, arguments.store, crew=crew, environment=environment) as here:
        here.ingest(folder)
        here.spare(*_SPARE)
        audit.note_writes(here)
        if not arguments.json:
            print(_HEAD.format(*_COLUMNS), flush=True)
        for storm in arguments.storms:
            yield Trial(storm, here, demands).run()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.storms", description=_described(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("storms", nargs="*", metavar="STORM", help="all of them where none is named")
    parser.add_argument("--store", choices=("pgvector", "weaviate"), default="pgvector")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--timeout", type=float, default=20.0, help="of each question, in seconds")
    parser.add_argument("--workers", type=int, default=2, help="ask workers")
    parser.add_argument("--slots", type=int, default=40, help="of each ask worker")
    parser.add_argument("--keep", action="store_true", help="keep the logs where all is well, too")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.store == "weaviate" and weaviate_program() is None:
        parser.error("there is no program `weaviate` on PATH")
    arguments.storms = list(_chosen(parser, arguments.storms, arguments.store))
    return arguments


def _chosen(parser: argparse.ArgumentParser, names: Sequence[str], store: str) -> Iterator[Storm]:
    there = {storm.name: storm for storm in STORMS if storm.server != "weaviate" or store == "weaviate"}
    for name in names or there:
        if name not in there:
            parser.error(f"no storm {name!r} with {store}; there are {', '.join(there)}")
        yield there[name]


def _described() -> str:
    return "\n".join([str(__doc__), *(f"    {storm.name:<17}{storm.what}" for storm in STORMS)])


def _row(report: Report) -> str:
    told = [("degraded", report.degraded), ("failed", report.failed), ("calls", report.calls)]
    rest = "; ".join(f"{name} {_counted(counts)}" for name, counts in told if counts)
    return _HEAD.format(
        *(
            report.storm,
            report.storm_seconds,
            report.seconds,
            report.full,
            report.p50,
            report.p95,
            report.longest,
            report.refused,
        ),
        *(report.retried, report.sent_again, report.full_again, report.slots, rest),
    )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
