"""Prove that bulk ingest loses nothing: many runs, each while workers are killed and services restart.

    python -m tests.chaos --store pgvector --seeds 20

Starts everything it needs on free ports and stops it. Prints a row per seed; exit status 1 if one went wrong, whose
logs are kept then.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import FrameType

from tests.chaos.services import Services
from tests.chaos.trial import Demands, Report, Trial
from tests.weaviate_server import weaviate_program

_FOREIGN = ("CELERIAC_", "OPENAI_", "WEAVIATE_", "REDIS_URL", "DATABASE_URL")
_HEAD = "{:>5} {:>7} {:>6} {:>6} {:>8} {:>7} {:>8}  {:<16} {:>12} {:>9} {:>9}  {}"
_COLUMNS = (
    *("seed", "ingest", "parse", "child", "control", "frozen", "seconds"),
    *("Redis by", "redeliveries", "embedded", "distinct", "outcome"),
)


def main() -> int:
    """Run the seeds one after the other; returns the exit status."""
    arguments = _arguments()
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        del os.environ[name]
    signal.signal(signal.SIGTERM, _interrupt)
    folder = Path(tempfile.mkdtemp(prefix="celeriac-chaos-"))
    folder.chmod(0o711)  # Postgres does not run as root
    reports: list[Report] = []
    try:
        for report in _trials(arguments, folder):
            reports.append(report)
            print("\n".join([_row(report), *(f"      {finding}" for finding in report.findings)]), flush=True)
    except KeyboardInterrupt:
        print("Interrupted; everything is stopped.", file=sys.stderr)
        return 130
    finally:
        _write(arguments.json, reports)
        if not any(report.findings for report in reports):
            shutil.rmtree(folder, ignore_errors=True)
    return _verdict(reports, folder)


def _trials(arguments: argparse.Namespace, folder: Path) -> Iterator[Report]:
    demands = Demands(**{demand.name: getattr(arguments, demand.name) for demand in fields(Demands)})
    services = Services(folder, arguments.store)
    try:
        print(_HEAD.format(*_COLUMNS), flush=True)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            yield Trial(seed, services, folder / f"seed-{seed}", demands).run()
    finally:
        services.stop()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", choices=("pgvector", "weaviate"), default="pgvector")
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--least-seconds", type=float, default=15, help="embedding is slowed down to that")
    parser.add_argument("--chaos-seconds", type=float, default=60, help="after which nothing is killed any more")
    parser.add_argument("--run-seconds", type=float, default=300, help="after which a run counts as stuck")
    parser.add_argument("--least-kills", type=int, default=5, help="with fewer, a seed proves nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the reports there")
    arguments = parser.parse_args()
    if arguments.store == "weaviate" and weaviate_program() is None:
        parser.error("there is no program `weaviate` on PATH")
    return arguments


def _row(report: Report) -> str:
    kills = (report.kills.get(kind, 0) for kind in ("ingest", "parse", "child", "control"))
    outcome = f"{len(report.findings)} findings" if report.findings else "ok"
    return _HEAD.format(
        *(report.seed, *kills, report.freezes, report.seconds, report.redis_end, report.redeliveries),
        *(report.embedded_texts, report.distinct_texts, outcome),
    )


def _verdict(reports: list[Report], folder: Path) -> int:
    failed = [report.seed for report in reports if report.findings]
    if failed:
        print(f"Seeds {failed} went wrong; their logs are in {folder}.", file=sys.stderr)
    return 1 if failed else 0


def _write(file: Path | None, reports: list[Report]) -> None:
    if file is not None:
        file.write_text(json.dumps([report.to_json() for report in reports], indent=2))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
