"""A batch of questions whose command is killed with kill -9 at half, and then given again.

    python -m tests.killed_batch --questions 500 --concurrency 20

starts everything it needs on free ports, prints what came of it as JSON and stops it. Exit status 1 where an answer is
missing, or more questions were asked twice than were under way.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests import failing_service
from tests.benchmarks.servers import OWN, temporary_home
from tests.command_line import CommandLine
from tests.standin.fixture import StandInProcess

WITHIN = 120.0


def kill_at_half(
    cli: CommandLine, standin: StandInProcess, file: Path, *options: str, questions: int, concurrency: int
) -> dict[str, Any]:
    """What was there when the command was killed, and in the end. Every question costs one call of the chat model."""
    out, more = file.with_suffix(".jsonl"), ("--concurrency", str(concurrency), "--out", file.with_suffix(".jsonl"))
    batch = cli.start("batch", file, *more, *options)
    before = _wait_for_lines(out, questions // 2, batch)
    batch.send_signal(signal.SIGKILL)
    batch.communicate(timeout=20)
    at_kill = len(_ids(out.read_bytes()))
    begun = time.monotonic()
    summary = cli("batch", file, *more, *options, "--json", timeout=600).json
    answered = [json.loads(line) for line in out.read_bytes().splitlines()]
    calls = standin.counters()["calls"].get("chat 200", 0)
    return {
        "questions": questions,
        "concurrency": concurrency,
        "answers_seen_before_the_kill": before,
        "answers_at_the_kill": at_kill,
        "kept": summary["earlier"],
        "seconds_after": round(time.monotonic() - begun, 2),
        "answered": summary["answered"],
        "failed": summary["failed"],
        "lines": len(answered),
        "distinct": len({result["line"] for result in answered}),
        "calls_of_the_model": calls,
        "asked_twice": calls - questions,
        "rest": sorted(path.name for path in file.parent.glob(f"{out.name}.*")),
    }


def _ids(data: bytes) -> Sequence[str]:
    return [json.loads(line)["question_id"] for line in data.split(b"\n")[:-1]]


def _wait_for_lines(path: Path, count: int, batch: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + WITHIN
    while (lines := path.read_bytes().count(b"\n") if path.exists() else 0) < count:
        if batch.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"the batch had {lines} results of {count}: {batch.communicate(timeout=5)}")
        time.sleep(0.01)
    return lines


def main() -> int:
    """Run it once, on a stack of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--concurrency", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--in-order", action="store_true")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as exits:
        standin = StandInProcess()
        exits.callback(standin.stop)
        home = exits.enter_context(temporary_home())
        key = {"OPENAI_BASE_URL": standin.url, "OPENAI_API_KEY": "stand-in", "CELERIAC_HOME": str(home)}
        cli = CommandLine(dict.fromkeys(OWN) | key)
        exits.callback(cli, "down")
        assert cli("up", "--workers", str(arguments.workers), "--detach", timeout=180).status == 0
        documents = failing_service.write_documents(home / "corpus.jsonl", 200)
        assert cli("ingest", documents).status == 0
        standin.reset()
        standin.configure(embedding_latency=0.06, first_token=0.25, stream_seconds=0.9, chunks=40)
        file = home / "questions.txt"
        file.write_text(
            "".join(f"At how many degrees does unit {n % 200} run, asks {n}?\n" for n in range(arguments.questions))
        )
        report = kill_at_half(
            cli,
            standin,
            file,
            *(["--in-order"] if arguments.in_order else []),
            questions=arguments.questions,
            concurrency=arguments.concurrency,
        )
    print(json.dumps(report, indent=2))
    whole = report["answered"] == report["lines"] == report["distinct"] == arguments.questions
    return 0 if whole and report["asked_twice"] <= arguments.concurrency else 1


if __name__ == "__main__":
    sys.exit(main())
