"""A worker that gets ready, in a process of its own: what it loads then, no question has to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

from pipeline import settings
from pipeline.ask.rehearsal import rehearse
from pipeline.types import KnowledgeBase
from pipeline.wiring import Parts
from tests.installation import ingest, new_kb, write
from tests.standin.fixture import ROOT, StandInProcess

# Prints what a question still has to import, and how many connections to Postgres it has to open.
PROGRAM = """
import json, sys
from pipeline import settings
from pipeline.ask import flow
from pipeline.ask.question import new_question
from pipeline import settings
from pipeline.ask.rehearsal import rehearse
from pipeline.wiring import Parts
from tests.installation import Pad

parts = Parts(settings.load())
parts.warm_up()
missing = rehearse(parts)
question = new_question("Where does the Volga flow?", parts.settings, kb=sys.argv[1])
parts.questions.submit(question)
loaded, opened = set(sys.modules), parts.engine.pool.checkedin()
answer = flow.run(question, parts, Pad())
json.dump({
    "missing": missing, "imported": sorted(set(sys.modules) - loaded), "mode": answer.mode,
    "opened": parts.engine.pool.checkedin() - opened,
}, sys.stdout)
parts.close()
"""


def first_question(kb: KnowledgeBase, parts: Parts, redis_url: str, **environment: str) -> dict[str, object]:
    known = {"DATABASE_URL": parts.database_url, "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, kb.name],
        env={**os.environ, **known, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, object] = json.loads(ran.stdout.splitlines()[-1])  # after the log
    return found


def filled(parts: Parts, folder: Path) -> KnowledgeBase:
    write(folder, rivers="The river Volga flows into the Caspian Sea.")
    kb = new_kb(parts)
    ingest(parts, kb, folder)
    return kb


def test_the_first_question_loads_nothing(parts: Parts, redis_url: str, tmp_path: Path) -> None:
    found = first_question(filled(parts, tmp_path), parts, redis_url)
    assert found == {"missing": [], "imported": [], "opened": 0, "mode": "extractive"}


def test_nor_does_the_first_one_that_a_model_answers(
    parts: Parts, redis_url: str, tmp_path: Path, standin: StandInProcess
) -> None:
    kb = filled(parts, tmp_path)
    found = first_question(kb, parts, redis_url, OPENAI_BASE_URL=standin.url, OPENAI_API_KEY="sk-test")
    assert found == {"missing": [], "imported": [], "opened": 0, "mode": "generated"}
    assert standin.counters()["calls"] == {"chat 200": 1}  # getting ready calls no model


def test_a_knowledge_base_that_lost_its_chunks_is_no_store_that_is_down(
    parts: Parts, redis_url: str, tmp_path: Path
) -> None:
    write(tmp_path, rivers="The river Volga flows into the Caspian Sea.")
    first = new_kb(parts, name=f"0-first-by-name-{uuid.uuid4().hex}")
    ingest(parts, first, tmp_path)
    parts.store.drop(first.index, timeout=10)
    found = first_question(filled(parts, tmp_path), parts, redis_url)
    assert found["missing"] == []


def test_what_is_down_is_named_and_keeps_nobody_from_starting() -> None:
    parts = Parts(settings.load(DATABASE_URL="postgresql://127.0.0.1:1/x", REDIS_URL="redis://127.0.0.1:1/0"))
    assert rehearse(parts) == ("redis", "postgres", "store")
    parts.close()
