"""In a real child process, since a bound can't be taken back from this one. Celery is not needed for it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from pipeline.adapters.parsers import all_parsers
from pipeline.errors import ParseFailed
from pipeline.ingest.reading import parse_document
from pipeline.types import RecordFields, Source
from tasks.limits import bound_memory
from tests.office_files import BODY, SHEET, docx_file, edited, xlsx_file

parsers = all_parsers()

def many(count, form):
    return b"".join(form % number for number in range(count))

def parse(format_, data):
    source = Source(key="k", origin="/data/file", format=format_)
    return parse_document(data, source, RecordFields(), parsers).text

small = {"docx": docx_file("still alive"), "xlsx": xlsx_file({"S": [["still alive"]]}), "html": b"<p>still alive"}
large = {
    "docx": edited(small["docx"], BODY, lambda xml: xml.replace(
        b"<w:sectPr", many(150_000, b"<w:p><w:r><w:t>%x</w:t></w:r></w:p>") + b"<w:sectPr", 1)),
    "xlsx": edited(small["xlsx"], SHEET, lambda xml: xml.replace(
        b"</sheetData>", b"<row r='9'>" + many(250_000, b"<x y='%x'/>") + b"</row></sheetData>", 1)),
    "html": many(500_000, b"<p>%x"),
}
for format_, data in small.items():
    parse(format_, data)
bound = bound_memory(32)
assert resource.getrlimit(resource.RLIMIT_DATA)[0] == bound
for format_, data in large.items():
    try:
        parse(format_, data)
    except ParseFailed as error:
        print(error)
    print(*(parse(name, data) for name, data in small.items()), sep=", ")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no other system bounds private memory")
def test_documents_that_need_more_memory_than_allowed_fail_and_their_process_goes_on() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    failed = (
        r"It needs more memory than the \d+ MB that its process may hold. Split it, or raise CELERIAC_PARSE_MEMORY_MB."
    )
    assert [bool(re.fullmatch(failed, line)) for line in lines[::2]] == [True] * 3, lines
    assert lines[1::2] == ["still alive, still alive, still alive"] * 3
