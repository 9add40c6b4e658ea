"""What importing costs: nothing that a caller didn't ask for."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pipeline

ROOT = Path(__file__).resolve().parents[3]
DRIVERS = ("psycopg", "sqlalchemy", "openai", "httpx", "httpx2", "weaviate", "redis", "wordllama", "tokenizers", "docx")
FOREIGN = ("celery", "kombu", "gevent", "tasks")

PROGRAM = """
import importlib, json, os, sys

class Spy(dict):
    asked = []
    def __getitem__(self, name):
        self.asked.append(name); return super().__getitem__(name)
    def get(self, name, default=None):
        self.asked.append(name); return super().get(name, default)
    def __contains__(self, name):
        self.asked.append(name); return super().__contains__(name)
    def _all(self, *_):
        self.asked.append("CELERIAC and all others"); return super().items()
    items = keys = values = copy = __iter__ = _all

# Our libraries may read what is theirs; only what is read after them counts as ours.
import numpy, pydantic, pydantic_settings, structlog
os.environ = Spy(os.environ)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps([sorted({name.split(".")[0] for name in sys.modules}), Spy.asked]))
"""


def _modules() -> list[str]:
    found = (module.name for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."))
    return [name for name in found if not name.startswith("pipeline.adapters")]


def _imported() -> tuple[list[str], list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *_modules()], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    loaded, asked = json.loads(done.stdout)
    return loaded, asked


def test_importing_the_pipeline_loads_no_driver_and_reads_no_environment() -> None:
    assert {"pipeline.wiring", "pipeline.ask.flow", "pipeline.ingest.flow"} <= set(_modules())
    loaded, asked = _imported()
    assert set(loaded).isdisjoint({*DRIVERS, *FOREIGN})
    assert [name for name in asked if name.startswith(("CELERIAC", "REDIS", "DATABASE", "OPENAI", "WEAVIATE"))] == []
