"""What a worker spends its time on, for one started with ``--include tests.benchmarks.timers``.

Two things are noted, per process, in the folder that BENCHMARK_FOLDER names:

* ``cpu-<pid>.json``: samples of its processor time by kind of work. A timer of the kernel (ITIMER_PROF) fires after
  every 5 ms (10 in ``ask`` workers) that the process has computed; what runs at that moment is charged. In a gevent
  worker that is the greenlet that runs, however many others wait. Cost: some 20 µs per sample, 0.4 %.
* ``calls-<pid>.jsonl``: begin and end (Unix seconds) of each call of the embedder and each write to the vector store;
  not in ``ask`` workers.

pgvector gets connections of its own, named ``celeriac-store``, so that what Postgres computes for the store can be told
from what it computes for the ledger.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from celery import signals

from pipeline import wiring
from tests.benchmarks.ask_work import work_of
from tests.benchmarks.servers import FOLDER, STORE_CONNECTIONS

_of_questions = "ask" in sys.argv
TICK = 0.01 if _of_questions else 0.005

# Of the frames of a stack, from the inside out, the first one in a file of this list says what the work is. What is not
# in it works for its caller.
_KINDS = (
    ("pipeline/adapters/wordllama_embedder", "model"),
    ("pipeline/adapters/openai_", "model"),
    ("pipeline/adapters/pgvector/", "store"),
    ("pipeline/adapters/weaviate/", "store"),
    ("pipeline/adapters/chunker", "chunking"),
    ("pipeline/ingest/cutting", "chunking"),
    ("pipeline/adapters/parsers/", "reading"),
    ("pipeline/ingest/reading", "reading"),
    ("pipeline/adapters/postgres/", "ledger"),
    ("pipeline/ingest/", "stages"),
)
_samples: Counter[str] = Counter()


def start(**_: Any) -> None:
    """Begin to sample this process."""
    _samples.clear()
    signal.signal(signal.SIGPROF, _sample)
    signal.siginterrupt(signal.SIGPROF, False)
    signal.setitimer(signal.ITIMER_PROF, TICK, TICK)


_pause = 1.0 if _of_questions else 0.0  # the stages of questions are short and many
_written = 0.0


def write(**_: Any) -> None:
    """Note what was sampled so far."""
    global _written
    if time.monotonic() - _written < _pause:
        return
    _written = time.monotonic()
    path = _folder() / f"cpu-{os.getpid()}.json"
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({kind: count * TICK for kind, count in _samples.items()}))
    draft.replace(path)


def _sample(_number: int, frame: FrameType | None) -> None:
    _samples[_kind_of(frame)] += 1


def _kind(frame: FrameType | None) -> str:
    while frame is not None:
        if (kind := _kind_of_file(frame.f_code.co_filename)) is not None:
            return kind
        frame = frame.f_back
    return "queue"


_known: dict[str, str | None] = {}


def _kind_of_file(name: str) -> str | None:
    if name not in _known:
        _known[name] = next((kind for part, kind in _KINDS if f"/{part}" in name), None)
    return _known[name]


class _Timed:
    """A part whose method ``name`` notes when it is called."""

    def __init__(self, part: Any, name: str, kind: str) -> None:
        self._part = part
        self._kind = kind
        setattr(self, name, self._timed(getattr(part, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            begun = time.time()
            try:
                return method(*arguments, **named)
            finally:
                _note_call(self._kind, begun)

        return timed


def _note_call(kind: str, begun: float) -> None:
    with (_folder() / f"calls-{os.getpid()}.jsonl").open("a") as calls:
        calls.write(json.dumps([kind, begun, time.time()]) + "\n")


def _folder() -> Path:
    return Path(os.environ[FOLDER])


def _build_store(parts: wiring.Parts) -> Any:
    store = _pgvector(parts) if parts.settings.store_name == "pgvector" else _store(parts)
    return store if _of_questions else _Timed(store, "upsert", "store")


def _build_embedder(parts: wiring.Parts) -> Any:
    return _embedder(parts) if _of_questions else _Timed(_embedder(parts), "embed", "model")


def _pgvector(parts: wiring.Parts) -> Any:
    from pipeline.adapters.pgvector import PgvectorStore
    from pipeline.adapters.postgres.engine import make_engine

    settings = parts.settings
    engine = make_engine(
        parts.database_url,
        pool=64,  # none is ever closed: its processor time would be lost with it
        connect_timeout=settings.connect_timeout,
        statement_timeout=settings.statement_timeout,
        name=STORE_CONNECTIONS,
    )
    return PgvectorStore(engine, language=settings.keyword_language)


_kind_of = work_of if _of_questions else _kind
_parts = vars(wiring.Parts)
_store, _embedder = _parts["store"]._build, _parts["embedder"]._build
_parts["store"]._build = _build_store
_parts["embedder"]._build = _build_embedder
signals.worker_process_init.connect(start)  # timers are not inherited by the children of a pool
signals.task_postrun.connect(write)
start()
