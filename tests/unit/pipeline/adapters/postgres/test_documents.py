from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from pipeline.errors import ParseFailed
from pipeline.ingest.chunk import chunk_id
from pipeline.types import BatchOutcome, Block, Draft, DraftChunk, KnowledgeBase, RunOptions, Source, StoredChunk
from pipeline.wiring import Parts
from tests.installation import claimed, eventually, execute, scalars

AWKWARD = "Größe 🧨👩‍👩‍👧‍👦 “quoted” 'single' \"double\" \\back %s {brace} \t tab\u2028line\n"


def source(key: str, origin: str = "") -> Source:
    return Source(key=key, origin=origin or key, format="text")


def draft(document: str, generation: int, text: str = "text", title: str = "title") -> Draft:
    return Draft(document_id=document, generation=generation, title=title, content_hash=f"h{generation}", text=text)


def pieces(kb: KnowledgeBase, document: str, generation: int, *texts: str) -> list[DraftChunk]:
    return [
        DraftChunk(
            id=chunk_id(kb.id, document, generation, ordinal),
            document_id=document,
            generation=generation,
            ordinal=ordinal,
            text=text,
            context="title",
            start=0,
            end=len(text),
            page=2,
            section=AWKWARD,
            tokens=1,
            embed_hash="ab" * 32,
        )
        for ordinal, text in enumerate(texts)
    ]


def registered(parts: Parts, kb: KnowledgeBase, key: str = "/a") -> tuple[str, int]:
    return parts.documents.register(kb.id, [source(key)])[key]


def live_hash(parts: Parts, kb: KnowledgeBase, key: str = "/a") -> str | None:
    return parts.documents.known(kb.id, [key])[key].content_hash


def published(parts: Parts, kb: KnowledgeBase, key: str = "/a", *texts: str) -> tuple[str, int]:
    document, generation = registered(parts, kb, key)
    parts.documents.save_drafts([draft(document, generation)])
    parts.documents.save_chunks(kb.id, [(document, generation)], pieces(kb, document, generation, *texts or ("one",)))
    parts.documents.switch([(document, generation)], kb.indexes)
    return document, generation


# --------------------------------------------------------------------------- registering


def test_each_registration_reserves_a_generation_of_its_own(parts: Parts, kb: KnowledgeBase) -> None:
    """So that two runs over one document can't write the same one."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: registered(parts, kb), range(8)))
    assert len({document for document, _ in found}) == 1
    assert sorted(generation for _, generation in found) == list(range(1, 9))


def test_many_sources_are_registered_by_key_and_a_double_once(parts: Parts, kb: KnowledgeBase) -> None:
    found = parts.documents.register(kb.id, [source("/a"), source("/b"), source("/a")])
    assert {key: generation for key, (_, generation) in found.items()} == {"/a": 1, "/b": 1}
    assert len({document for document, _ in found.values()}) == 2
    assert parts.documents.register(kb.id, []) == {}


def test_what_is_known_of_a_document_before_its_source_is_read(parts: Parts, kb: KnowledgeBase) -> None:
    published(parts, kb, "/a")
    parts.documents.register(kb.id, [source("/b", origin="/file")])
    known = parts.documents.known(kb.id, ["/a", "/b", "/c"])
    assert {key: (each.content_hash, each.origin, each.failed) for key, each in known.items()} == {
        "/a": ("h1", "/a", False),
        "/b": (None, "/file", False),
    }
    assert parts.documents.known(kb.id, []) == {}


def test_a_live_document_is_confirmed_with_its_new_origin_and_without_its_error(
    parts: Parts, kb: KnowledgeBase
) -> None:
    published(parts, kb, "/a")
    registered(parts, kb, "/b")
    execute(parts, """UPDATE documents SET error = '{"code": "ParseFailed"}' WHERE kb_id = :kb""", kb=kb.id)
    parts.documents.confirm(kb.id, [source("/a", origin="/moved"), source("/b"), source("/unknown")])
    known = parts.documents.known(kb.id, ["/a", "/b"])
    assert (known["/a"].origin, known["/a"].failed) == ("/moved", False)
    assert known["/b"].failed, "nothing of it is live: its failure stands"


def test_two_knowledge_bases_have_documents_of_their_own(parts: Parts, kb: KnowledgeBase) -> None:
    from tests.installation import new_kb

    assert registered(parts, kb)[0] != registered(parts, new_kb(parts))[0]


def test_the_hash_of_the_live_generation_is_what_a_source_is_compared_with(parts: Parts, kb: KnowledgeBase) -> None:
    version = registered(parts, kb)
    parts.documents.save_drafts([draft(*version)])
    parts.documents.save_chunks(kb.id, [version], pieces(kb, *version, "one"))
    assert live_hash(parts, kb) is None
    parts.documents.switch([version], kb.indexes)
    assert live_hash(parts, kb) == "h1"


# --------------------------------------------------------------------------- drafts and chunks


@pytest.mark.parametrize("text", [AWKWARD, "x" * 3_000_000, "\u0001 control \u001f", "[]{}null", "\\u0000 spelled out"])
def test_a_text_is_read_back_to_the_character(text: str, parts: Parts, kb: KnowledgeBase) -> None:
    document, generation = registered(parts, kb)
    blocks = (Block(start=0, end=3, page=1, section=AWKWARD), Block(start=3, end=len(text)))
    given = draft(document, generation, text, title=AWKWARD).model_copy(update={"blocks": blocks})
    parts.documents.save_drafts([given])
    assert parts.documents.drafts([(document, generation)]) == [given]
    chunks = pieces(kb, document, generation, text, "second")
    parts.documents.save_chunks(kb.id, [(document, generation)], chunks)
    found = parts.documents.chunks([(document, generation)])
    assert [chunk.text for chunk in found] == [text, "second"]
    assert found == [tuple(getattr(chunk, name) for name in StoredChunk._fields) for chunk in chunks]


def test_saving_a_draft_again_replaces_it(parts: Parts, kb: KnowledgeBase) -> None:
    document, generation = registered(parts, kb)
    parts.documents.save_drafts([draft(document, generation, "first")])
    parts.documents.save_drafts([draft(document, generation, "second")])
    assert [found.text for found in parts.documents.drafts([(document, generation)])] == ["second"]


def test_chunks_are_replaced_as_a_whole(parts: Parts, kb: KnowledgeBase) -> None:
    """A second delivery may cut fewer: those of the first must not stay."""
    document, generation = registered(parts, kb)
    version = (document, generation)
    parts.documents.save_drafts([draft(*version)])
    parts.documents.save_chunks(kb.id, [version], pieces(kb, *version, "a", "b", "c"))
    parts.documents.save_chunks(kb.id, [version], pieces(kb, *version, "d"))
    assert [chunk.text for chunk in parts.documents.chunks([version])] == ["d"]


def test_chunks_come_document_by_document_in_order(parts: Parts, kb: KnowledgeBase) -> None:
    versions = [published(parts, kb, key, *(f"{key} {n}" for n in range(12))) for key in ("/a", "/b")]
    found = parts.documents.chunks(versions)
    first, second = sorted(versions)
    assert [(chunk.document_id, chunk.generation) for chunk in found] == [first] * 12 + [second] * 12
    assert [chunk.text.split()[1] for chunk in found] == [str(n) for n in range(12)] * 2


# --------------------------------------------------------------------------- live generations


def test_readers_see_nothing_until_the_switch_and_then_all_of_it(parts: Parts, kb: KnowledgeBase) -> None:
    document, generation = registered(parts, kb)
    version = (document, generation)
    parts.documents.save_drafts([draft(*version)])
    chunks = pieces(kb, *version, "a", "b")
    parts.documents.save_chunks(kb.id, [version], chunks)
    ids = [chunk.id for chunk in chunks]
    assert parts.passages.live(kb.id, ids) == {}
    assert parts.passages.chunks(document) == []
    parts.documents.switch([version], kb.indexes)
    found = parts.passages.live(kb.id, ids)
    assert set(found) == set(ids)
    assert found[ids[0]].section == AWKWARD
    assert (found[ids[0]].title, found[ids[0]].source, found[ids[0]].page) == ("title", "/a", 2)
    assert [passage.text for passage in parts.passages.chunks(document)] == ["a", "b"]


def test_a_switch_never_goes_back(parts: Parts, kb: KnowledgeBase) -> None:
    document, first = registered(parts, kb)
    _, second = registered(parts, kb)
    for generation in (first, second):
        parts.documents.save_drafts([draft(document, generation)])
        parts.documents.save_chunks(kb.id, [(document, generation)], pieces(kb, document, generation, f"g{generation}"))
    parts.documents.switch([(document, second)], kb.indexes)
    parts.documents.switch([(document, first)], kb.indexes)
    assert [passage.text for passage in parts.passages.chunks(document)] == ["g2"]
    assert live_hash(parts, kb) == "h2"


def test_a_generation_without_a_chunk_never_goes_live(parts: Parts, kb: KnowledgeBase) -> None:
    """It would replace a good one by nothing, and count as unchanged ever after."""
    document, _ = published(parts, kb)
    _, second = registered(parts, kb)
    parts.documents.save_drafts([draft(document, second)])
    parts.documents.switch([(document, second)], kb.indexes)
    assert [passage.text for passage in parts.passages.chunks(document)] == ["one"]


def test_what_a_newer_generation_has_replaced_is_known_and_can_be_forgotten(parts: Parts, kb: KnowledgeBase) -> None:
    document, first = published(parts, kb)
    assert parts.documents.superseded_chunks([document]) == []
    _, second = published(parts, kb)
    _, third = registered(parts, kb)
    parts.documents.save_drafts([draft(document, third)])
    assert parts.documents.superseded_chunks([document]) == [chunk_id(kb.id, document, first, 0)]
    parts.documents.forget_superseded([document])
    kept = parts.documents.drafts([(document, generation) for generation in (first, second, third)])
    assert sorted(found.generation for found in kept) == [second, third]
    assert parts.documents.chunks([(document, first)]) == []


def test_before_the_first_switch_nothing_is_superseded(parts: Parts, kb: KnowledgeBase) -> None:
    document, generation = registered(parts, kb)
    parts.documents.save_drafts([draft(document, generation)])
    parts.documents.forget_superseded([document])
    assert len(parts.documents.drafts([(document, generation)])) == 1


def test_a_hidden_document_is_in_no_answer_and_its_chunks_of_all_generations_are_told(
    parts: Parts, kb: KnowledgeBase
) -> None:
    document, first = published(parts, kb)
    _, second = published(parts, kb)
    both = {chunk_id(kb.id, document, generation, 0) for generation in (first, second)}
    assert set(parts.documents.hide([document])) == both
    assert parts.passages.live(kb.id, sorted(both)) == {}
    assert set(parts.documents.hide([document])) == both  # again after a crash: what is to be removed is still known
    parts.documents.delete([document])
    parts.documents.delete([document])
    assert parts.passages.documents(kb.id) == []


# --------------------------------------------------------------------------- what has vanished


@pytest.mark.parametrize(
    ("root", "gone"),
    [
        ("/a/b", {"/a/b", "/a/b/x"}),
        ("/a/b/", {"/a/b/x"}),
        ("/a", {"/a/b", "/a/b/x", "/a/bc", "/a/b%/x", "/a/b_/x"}),
        ("/", {"/a/b", "/a/b/x", "/a/bc", "/a/b%/x", "/a/b_/x", "/z"}),
        ("/a/b%", {"/a/b%/x"}),
        ("/a/b_", {"/a/b_/x"}),
        ("/a/bc", {"/a/bc"}),
        ("/nowhere", set()),
    ],
)
def test_only_what_lies_under_a_root_can_vanish(root: str, gone: set[str], parts: Parts, kb: KnowledgeBase) -> None:
    keys = {"/a/b", "/a/b/x", "/a/bc", "/a/b%/x", "/a/b_/x", "/z"}
    by_id = {each[0]: key for key, each in parts.documents.register(kb.id, [source(key) for key in keys]).items()}
    run_id = str(uuid.uuid4())
    parts.runs.create(run_id, kb.id, RunOptions(roots=(root,)))
    assert {by_id[found] for found in parts.documents.vanished(kb.id, run_id, [root])} == gone


def test_what_the_run_met_has_not_vanished(parts: Parts, kb: KnowledgeBase) -> None:
    keys = ["/a/1", "/a/2", "/a/3"]
    by_key = parts.documents.register(kb.id, [source(key) for key in keys])
    run_id = str(uuid.uuid4())
    parts.runs.create(run_id, kb.id, RunOptions(roots=("/a",)))
    parts.runs.add(run_id, 0, [(0, source("/a/1")), (1, source("/a/3"))])
    assert parts.documents.vanished(kb.id, run_id, ["/a"]) == [by_key["/a/2"][0]]


def test_without_a_root_nothing_vanishes(parts: Parts, kb: KnowledgeBase) -> None:
    parts.documents.register(kb.id, [source("/a")])
    assert parts.documents.vanished(kb.id, str(uuid.uuid4()), []) == []


@pytest.mark.parametrize("page", [1, 2, 3, 7, 100])
def test_what_vanished_is_found_page_by_page(page: int, parts: Parts, kb: KnowledgeBase) -> None:
    by_key = parts.documents.register(kb.id, [source(f"/{n % 2}/{n}") for n in range(7)])
    run_id = str(uuid.uuid4())
    parts.runs.create(run_id, kb.id, RunOptions(roots=("/0",)))
    parts.runs.add(run_id, 0, [(0, source("/0/4"))])
    wanted = [by_key[key][0] for key in ("/0/0", "/0/2", "/0/6")]
    assert parts.documents.vanished(kb.id, run_id, ["/0"], page=page) == wanted


# --------------------------------------------------------------------------- side by side


def failing(parts: Parts, kb: KnowledgeBase, keys: list[str]) -> Callable[[], object]:
    run_id = str(uuid.uuid4())
    parts.runs.create(run_id, kb.id, RunOptions())
    parts.runs.add(run_id, 0, [(number, source(key)) for number, key in enumerate(keys)])
    parts.runs.start(run_id)
    lease, failed = claimed(parts, run_id), dict.fromkeys(range(len(keys)), ParseFailed("It broke."))
    return lambda: parts.batches.record(lease, BatchOutcome(failed=failed), next_stage="over")


WRITERS: dict[str, Callable[[Parts, KnowledgeBase, dict[str, tuple[str, int]]], Callable[[], object]]] = {
    "register": lambda parts, kb, found: lambda: parts.documents.register(kb.id, [source(key) for key in found]),
    "confirm": lambda parts, kb, found: lambda: parts.documents.confirm(kb.id, [source(key, "/new") for key in found]),
    "fail": lambda parts, kb, found: failing(parts, kb, list(found)),
    "switch": lambda parts, kb, found: lambda: parts.documents.switch(list(found.values()), kb.indexes),
    "forget": lambda parts, _kb, found: lambda: parts.documents.forget_superseded([id_ for id_, _ in found.values()]),
    "hide": lambda parts, _kb, found: lambda: parts.documents.hide([id_ for id_, _ in found.values()]),
    "delete": lambda parts, _kb, found: lambda: parts.documents.delete([id_ for id_, _ in found.values()]),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_whoever_waits_for_the_first_document_holds_none_after_it(writer: str, parts: Parts, kb: KnowledgeBase) -> None:
    """All lock documents in the order of their keys: two runs over the same ones can't wait for each other."""
    found = {key: published(parts, kb, key) for key in ("/3", "/2", "/1")}
    newer = {key: registered(parts, kb, key) for key in found}
    parts.documents.save_drafts([draft(*version) for version in newer.values()])
    parts.documents.save_chunks(
        kb.id, list(newer.values()), [piece for version in newer.values() for piece in pieces(kb, *version, "two")]
    )
    write = WRITERS[writer](parts, kb, newer)
    with ThreadPoolExecutor(1) as pool, parts.engine.begin() as connection:
        connection.execute(sa.text("SELECT FROM documents WHERE id = :id FOR UPDATE"), {"id": found["/1"][0]})
        holder = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        writing = pool.submit(write)
        waiting = "SELECT pid FROM pg_stat_activity WHERE :holder = ANY(pg_blocking_pids(pid))"
        assert eventually(lambda: scalars(parts, waiting, holder=holder))
        others = "SELECT key FROM documents WHERE kb_id = :kb AND key > '/1' ORDER BY key FOR UPDATE SKIP LOCKED"
        assert scalars(parts, others, kb=kb.id) == ["/2", "/3"]
        connection.rollback()
        writing.result(timeout=10)
