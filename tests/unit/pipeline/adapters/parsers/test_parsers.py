from __future__ import annotations

import subprocess
import sys

from pipeline.ingest.discover import FORMATS

LIBRARIES = ("docx", "pptx", "openpyxl", "pypdfium2", "selectolax", "charset_normalizer")


def test_every_format_that_discovery_knows_has_a_parser() -> None:
    from pipeline.adapters.parsers import all_parsers

    assert {"jsonl": "json", "tsv": "csv"}.keys() | all_parsers().keys() == set(FORMATS.values())


def test_a_library_is_imported_only_when_its_format_comes_up() -> None:
    program = f"""
import sys
from pipeline.adapters.parsers import all_parsers
from pipeline.types import RecordFields, Source
parsers = all_parsers()
parsers["text"].parse(b"x", Source(key="k", origin="o", format="text"), RecordFields())
print([name for name in {LIBRARIES!r} if name in sys.modules])
parsers["html"].parse(b"x", Source(key="k", origin="o", format="html"), RecordFields())
print([name for name in {LIBRARIES!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["[]", "['selectolax']"]
