"""Cancel questions while the model writes, or before it does: when does it see its connections close?

    python -m tests.benchmarks.cancel --questions 50

Prints a table and, with --json, its twin; exit status 1 unless every connection closes within a second. Starts
everything it needs on free ports and stops it. ``closed`` is the time from the call of ``Client.cancel`` to the end of
the connection as the model sees it, ``told`` that to the end of the stream for whoever reads the answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from deploy.console.context import client_of, current_parts
from tests.benchmarks.servers import done, measured_stack
from tests.command_line import CommandLine
from tests.standin.fixture import StandInProcess

if TYPE_CHECKING:
    from pipeline.types import Question
    from tasks.client import Client

LIMIT_MS = 1000.0
TEXT = "Cancelling a question ends the stream of the model and of everybody who reads it."
PHASES: Mapping[str, Mapping[str, Any]] = {
    "in mid-stream": {"chunks": 2000, "stream_seconds": 200},
    "before the first token": {"first_token": 200},
    "before the reply": {"first_token": 200, "late_headers": True},
}


def main() -> int:
    """Run all phases once."""
    arguments = _arguments()
    with contextlib.ExitStack() as exits:
        standin = StandInProcess()
        exits.callback(standin.stop)
        served = {"OPENAI_BASE_URL": standin.url, "OPENAI_API_KEY": "stand-in", "CELERIAC_CACHE": "false"}
        stack = exits.enter_context(measured_stack(arguments.store, arguments.workers, served))
        done(stack.manage("ingest", "-", "--name", "cancelling", stdin=TEXT.encode()))
        report = {name: phase(stack.manage, standin, name, arguments.questions) for name in PHASES}
    print(json.dumps(report, indent=2) if arguments.json else _table(report))
    return 0 if all(found["closed_in_time"] == arguments.questions for found in report.values()) else 1


def phase(manage: CommandLine, standin: StandInProcess, name: str, questions: int) -> dict[str, Any]:
    """Ask so many questions at once, cancel them one after another when the model is at all of them, and compare."""
    standin.reset()
    standin.configure(**PHASES[name])
    program = f"from tests.benchmarks.cancel import cancel_all; cancel_all({questions})"
    asking = manage.start_python(program)
    standin.wait_for(lambda seen: seen["streams_open"] == questions, 120)
    out, err = asking.communicate(b"go\n", timeout=120)
    if asking.returncode:
        sys.exit(err.decode())
    cancelled = json.loads(out)
    seen = standin.wait_for(lambda seen: seen["streams_open"] == 0, 10)
    closed = {stream["asked"].removeprefix("Question: "): stream["at"] for stream in seen["closed_early"]}
    return _compared(cancelled, closed)


def cancel_all(count: int) -> None:
    """In a program of its own: ask, wait for a line on standard input, cancel; print what happened when."""
    parts = current_parts()
    client = client_of(parts)
    asked = [client.question(f"What does cancelling end, {number}?", timeout=120) for number in range(count)]
    for question in asked:
        client.submit(question)
    sys.stdin.readline()
    with ThreadPoolExecutor(count) as pool:
        told = [pool.submit(_end_of, client, question) for question in asked]
        called = [_cancel(client, question) for question in asked]
        ends = [end.result() for end in told]
    statuses = [parts.questions.find(question.id).status for question in asked]
    rows = zip(asked, called, ends, statuses, strict=True)
    print(json.dumps([{"asked": q.text, "called": c, "told": t, "status": s} for q, c, t, s in rows]))


def _cancel(client: Client, question: Question) -> float:
    called = time.time()
    assert client.cancel(question.id)
    return called


def _end_of(client: Client, question: Question) -> float:
    for _ in client.follow(question):
        pass
    return time.time()


def _compared(cancelled: Sequence[Mapping[str, Any]], closed: Mapping[str, float]) -> dict[str, Any]:
    times = [(closed[row["asked"]] - row["called"]) * 1000 for row in cancelled if row["asked"] in closed]
    told = [(row["told"] - row["called"]) * 1000 for row in cancelled]
    return {
        "questions": len(cancelled),
        "closed": len(times),
        "closed_in_time": sum(ms <= LIMIT_MS for ms in times),
        "closed_ms": _spread(times),
        "told_ms": _spread(told),
        "cancelled_on_record": sum(row["status"] == "cancelled" for row in cancelled),
    }


def _spread(times: Sequence[float]) -> dict[str, float]:
    return {"p50": round(statistics.median(times), 1), "max": round(max(times), 1)} if times else {}


def _table(report: Mapping[str, Mapping[str, Any]]) -> str:
    return "\n".join(line for name, found in report.items() for line in _lines(name, found))


def _lines(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{name}: {found['closed_in_time']} of {found['questions']} connections closed within 1 s"
    for what in ("closed_ms", "told_ms"):
        yield f"    {what:<12} " + ", ".join(f"{key} {ms}" for key, ms in found[what].items())
    yield f"    on record as cancelled: {found['cancelled_on_record']}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=50, help="at once")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--store", choices=("pgvector", "weaviate"), default="pgvector")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
