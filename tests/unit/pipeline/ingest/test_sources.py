"""Documents from outside, with aliases and metadata, through all stages."""

from __future__ import annotations

import io
import uuid
from pathlib import Path

from pipeline.ingest import flow
from pipeline.ingest.discover import discover
from pipeline.ingest.manifest import write_manifest
from pipeline.ingest.outside import Outside
from pipeline.ingest.spool import Spool
from pipeline.types import KnowledgeBase, RecordFields, RunOptions
from pipeline.wiring import Parts
from tests.installation import counts, migrated_parts
from tests.web_server import answer, web_server

RECORDS = b'{"id": "r1", "text": "Redelivers late work.", "aka": ["ACK late", "acks_late"], "lang": "en"}\n'
FIELDS = RecordFields(aliases=("aka",))


def ingest(parts: Parts, kb: KnowledgeBase, home: Path, *given: str, stdin: bytes = b"") -> str:
    settings = parts.settings
    outside = Outside(
        parts.remotes, Spool(home, 100), io.BytesIO(stdin), settings.max_source_bytes, 10**6, 5, settings.fetch_timeout
    )
    run_id = str(uuid.uuid4())
    parts.runs.create(run_id, kb.id, RunOptions(fields=FIELDS))
    sources = discover(given, fields=FIELDS, max_record_bytes=10**6, outside=outside, suffix=".jsonl" if stdin else "")
    list(write_manifest(run_id, sources, ledger=parts.runs, max_documents=64, max_tokens=10**5))
    parts.runs.start(run_id)
    flow.run(run_id, parts)
    return run_id


def test_aliases_and_metadata_of_a_record_are_kept_and_shown(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    assert counts(parts, ingest(parts, kb, tmp_path, "-", stdin=RECORDS)) == {"done": 1}
    shown = parts.passages.document(kb.id, "r1")
    assert (shown["aliases"], shown["metadata"]) == (["ACK late", "acks_late"], {"lang": "en"})


def test_pages_are_fetched_by_whoever_parses_and_each_failure_is_its_own(
    postgres_url: str, kb: KnowledgeBase, tmp_path: Path
) -> None:
    parts = migrated_parts(DATABASE_URL=postgres_url, allow_private_addresses=True)
    with web_server() as web:
        web.pages["/a"] = answer(b"<title>A page</title><p>Some words.</p>", content_type="text/html")
        run_id = ingest(parts, kb, tmp_path, web.url("/a"), web.url("/gone.html"))
        assert counts(parts, run_id) == {"done": 1, "failed": 1}
        assert parts.passages.document(kb.id, web.url("/a"))["title"] == "A page"
        [failure] = parts.runs.failures(run_id)
        assert (failure.document, failure.code, failure.http_status) == (web.url("/gone.html"), "UnreadableSource", 404)
        web.pages["/a"] = answer(b"<title>A page</title><p>Some words.</p>", content_type="text/html")
        assert counts(parts, ingest(parts, kb, tmp_path, web.url("/a"))) == {"unchanged": 1}
    parts.close()


def test_without_permission_no_private_address_is_read(parts: Parts, kb: KnowledgeBase, tmp_path: Path) -> None:
    with web_server() as web:
        web.pages["/a.txt"] = answer(b"secret")
        run_id = ingest(parts, kb, tmp_path, web.url("/a.txt"))
        assert counts(parts, run_id) == {"failed": 1}
        assert "not a public address" in parts.runs.failures(run_id)[0].message
        assert web.asked == []
