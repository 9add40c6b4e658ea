"""One ingest, by Celeriac or by its twin, and what it took."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from tests.benchmarks import corpus
from tests.benchmarks.corpus import Corpus
from tests.benchmarks.processes import Usage, Watch
from tests.benchmarks.servers import MeasuredStack
from tests.command_line import ROOT

WARM_UP_DOCUMENTS = 600
WARM_UP_LIMIT = 120.0

_TIMES = """
SELECT extract(epoch FROM created_at)::float8, extract(epoch FROM finished_at)::float8 FROM runs WHERE id = %s
"""
# Kinds of work that are no overhead.
_PAID = ("model", "store", "store server")
# Kinds of processes whose time is that of the message queue and of its housekeeping.
_QUEUE = ("parse", "redis", "control", "control child", "beat", "ask", "supervisor")

Report = dict[str, Any]

_numbers = count(1)


class Failed(Exception):
    """A run that did not end, or not well."""


class _Notes(NamedTuple):
    """What the workers have noted: seconds of processor time by kind of work, and calls as (kind, begin, end)."""

    cpu: Counter[str]
    calls: list[tuple[str, float, float]]


def say(line: str) -> None:
    """Show progress."""
    print(line, file=sys.stderr, flush=True)


def warm_up(stack: MeasuredStack, folder: Path) -> None:
    """Let every process load what it needs; afterwards workers are as they are in the middle of a day."""
    file = corpus.write_short(folder / "warm-up.jsonl", WARM_UP_DOCUMENTS, copy=0)
    outcome = stack.manage("ingest", str(file.path), "--kb", "warm-up", "--json", timeout=WARM_UP_LIMIT)
    if outcome.status:
        raise Failed((outcome.err or outcome.out).strip()[-500:])


def ingest(stack: MeasuredStack, file: Corpus, limit: float, **others: int) -> Report:
    """Ingest into a knowledge base of its own; raises Failed where a document failed, or after ``limit`` seconds.

    ``others`` are further processes of the benchmark by name; their time is shown and is none of Celeriac's.
    """
    name = f"{file.path.stem}-{next(_numbers)}"
    with Watch(stack.trees | others, stack.urls["REDIS_URL"]) as watch:
        noted, store_cpu, client = _notes(stack), stack.store_cpu(), _children_cpu()
        say(f"   celeriac ingests {file.documents:,} documents")
        process = stack.manage.start("ingest", str(file.path), "--kb", name, "--json")
        watch.add("client", process.pid)
        summary = json.loads(_output(process, limit))
        used = watch.usage(client=round(_children_cpu() - client, 2))
        noted, store_cpu = _since(noted, _notes(stack)), stack.store_cpu() - store_cpu
    if summary["status"] != "done" or summary["failed"]:
        raise Failed(f"The run ended {summary['status']} with {summary['failed']} failed: {summary['failures'][:1]}")
    begun, ended = _times(stack, summary["run"])
    split = _split(used, noted.cpu, store_cpu)
    seconds = ended - begun
    found = {
        "documents": summary["indexed"],
        "passages": summary["chunks"],
        "seconds": round(seconds, 2),
        "command_seconds": round(used.seconds, 2),
        "passages_per_second": round(summary["chunks"] / seconds),
        "cpu_seconds": round(sum(split.values()), 2),
        "cpu_ms_per_passage": round(sum(split.values()) * 1000 / summary["chunks"], 2),
        "cpu_by_process": used.cpu,
        "cpu_by_work": split,
        "overhead_share": _share(split, leaving_out=_PAID),
        "bookkeeping_share": _share(split, leaving_out=(*_PAID, "reading", "chunking")),
        "idle_share": _idle(noted.calls, begun, ended),
        "busy": used.busy,
        "others": used.others,
        "peak_mb": used.peak_mb,
        "redis_mb": used.redis_mb,
    }
    say(f"   celeriac: {found['passages']:,} passages in {seconds:.1f} s, {found['cpu_ms_per_passage']} ms CPU each")
    return found


def twin(stack: MeasuredStack, file: Corpus, processes: int, limit: float) -> Report:
    """The plain program on the same servers; its processor time is its own and that of Postgres and Weaviate."""
    servers = {name: pid for name, pid in stack.trees.items() if name in ("postgres", "weaviate")}
    command = [sys.executable, "-m", "tests.benchmarks.twin", str(file.path), "--processes", str(processes)]
    environment = {**stack.environment, **stack.urls}
    with Watch(servers, stack.urls["REDIS_URL"]) as watch:
        say(f"   its twin ingests {file.documents:,} documents")
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        watch.add("twin", process.pid)
        found = json.loads(_output(process, limit))
        used = watch.usage(twin=round(found["cpu"], 2))
    if found["documents"] != file.documents:
        raise Failed(f"The twin took {found['documents']} documents of {file.documents}.")
    used.cpu.pop("twin child", None)  # the program's own account includes them
    cpu = sum(used.cpu.values())
    say(f"   twin:     {found['passages']:,} passages in {found['seconds']:.1f} s")
    return {
        "passages": found["passages"],
        "seconds": round(found["seconds"], 2),
        "passages_per_second": round(found["passages"] / found["seconds"]),
        "cpu_seconds": round(cpu, 2),
        "cpu_ms_per_passage": round(cpu * 1000 / found["passages"], 2),
        "cpu_by_process": used.cpu,
        "busy": used.busy,
        "others": used.others,
        "peak_mb": used.peak_mb,
    }


def _split(used: Usage, samples: Counter[str], store_cpu: float) -> dict[str, float]:
    """Seconds of processor time by kind of work; ``server`` is what Postgres or Weaviate used for it.

    What ingest workers and the children of the parse pool used is shared out as their samples say. Of Postgres, what
    the store's own connections used is the store's; all the rest, its background processes too, is the ledger's.
    """
    in_workers = used.cpu.get("ingest", 0.0) + used.cpu.get("parse child", 0.0)
    scale = in_workers / (sum(samples.values()) or 1.0)
    split = {kind: samples[kind] * scale for kind in ("reading", "chunking", "model", "store", "ledger", "stages")}
    split["queue"] = samples["queue"] * scale + sum(used.cpu.get(kind, 0.0) for kind in _QUEUE)
    split["store server"] = store_cpu + used.cpu.get("weaviate", 0.0)
    split["ledger server"] = used.cpu["postgres"] + used.cpu["postgres child"] - store_cpu
    split["client"] = used.cpu["client"]
    return {kind: round(seconds, 2) for kind, seconds in split.items()}


def _share(split: dict[str, float], leaving_out: Sequence[str]) -> float:
    return round(1 - sum(split[kind] for kind in leaving_out) / sum(split.values()), 3)


def _idle(calls: Iterable[tuple[str, float, float]], begun: float, ended: float) -> float:
    """Share of the run's wall time in which no worker was in a call of the embedder or a write to the store."""
    covered, upto = 0.0, begun
    for _, start, end in sorted(calls, key=lambda call: call[1]):
        start, end = max(start, upto), min(end, ended)
        if end > start:
            covered, upto = covered + end - start, end
    return round(1 - covered / (ended - begun), 3)


def _output(process: subprocess.Popen[bytes], limit: float) -> bytes:
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise Failed(f"It was not over within {limit:g} s.") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if process.returncode:
        raise Failed((err or out).decode(errors="replace").strip()[-500:])
    return out


def _times(stack: MeasuredStack, run: str) -> tuple[float, float]:
    with psycopg.connect(stack.urls["DATABASE_URL"]) as connection:
        row = connection.execute(_TIMES, [run]).fetchone()
    assert row is not None, run
    return row


def _notes(stack: MeasuredStack) -> _Notes:
    lines = [line for file in stack.notes.glob("calls-*.jsonl") for line in file.read_text().splitlines()]
    return _Notes(stack.sampled(), [tuple(json.loads(line)) for line in lines])


def _since(before: _Notes, after: _Notes) -> _Notes:
    return _Notes(after.cpu - before.cpu, after.calls)


def _children_cpu() -> float:
    """Seconds of processor time of the children of this process that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
