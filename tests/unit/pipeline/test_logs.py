"""In processes of their own: logging is configured once for a whole process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import logging, threading
import psycopg
import structlog
from pipeline import logs
{configure}
log = structlog.get_logger("ours")
with logs.correlated(question="q-1"):
    log.info("stage done", ms=1.5, text="zwei\\nZeilen 🧨")
    logging.getLogger("theirs").warning("a %s", "b")
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("defect")
log.debug("hidden")
log.info("outside")
for noisy in ("httpx", "celery.app.trace"):
    logging.getLogger(noisy).info("chatter")
for silent in ("weaviate-client", "psycopg.transaction"):
    logging.getLogger(silent).error("whole objects")
logging.getLogger("psycopg").warning("theirs alone")
"""


def _lines(level: str = "INFO", form: str = "json") -> list[str]:
    program = PROGRAM.replace("{configure}", f"logs.configure({form!r}, {level!r})")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def _events(level: str = "INFO") -> list[dict[str, Any]]:
    return [json.loads(line) for line in _lines(level)]


def test_each_event_is_one_line_of_json_with_time_level_and_the_id_it_belongs_to() -> None:
    done, theirs, defect, outside, _ = _events()
    assert {key: done[key] for key in ("event", "question", "level", "logger", "ms", "text")} == {
        "event": "stage done",
        "question": "q-1",
        "level": "info",
        "logger": "ours",
        "ms": 1.5,
        "text": "zwei\nZeilen 🧨",
    }
    assert done["timestamp"].endswith("Z")
    assert (theirs["event"], theirs["question"], theirs["logger"]) == ("a b", "q-1", "theirs")
    assert "ZeroDivisionError" in defect["exception"]
    assert outside["event"] == "outside"
    assert "question" not in outside


def test_the_level_decides_what_is_said_and_libraries_say_little_at_any() -> None:
    """Celery's own line on a task would hold its result, the answer; Weaviate's a whole text and vector."""
    assert [event["event"] for event in _events("WARNING")] == ["a b", "defect", "theirs alone"]
    assert [event["event"] for event in _events("ERROR")] == ["defect"]
    assert "hidden" in [event["event"] for event in _events("DEBUG")]
    assert not {"chatter", "whole objects"} & {event["event"] for event in _events("DEBUG")}


def test_a_person_reads_lines_without_colour_in_a_file() -> None:
    text = "\n".join(_lines(form="console"))
    assert "stage done" in text
    assert "question=q-1" in text
    assert "\x1b[" not in text
