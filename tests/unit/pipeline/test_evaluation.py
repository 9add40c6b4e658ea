from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pipeline.errors import BadSettings, NotFound
from pipeline.evaluation import BRANCHES, Ranking, load_collection, measure, rank
from pipeline.types import KnowledgeBase
from pipeline.wiring import Parts
from tests.installation import ingest

CORPUS = {
    "owls": "Owls hunt at night and see in the dark.",
    "rivers": "The river Volga flows into the Caspian Sea.",
    "bread": "Sourdough bread rises slowly overnight.",
}
QUERIES = {"q1": "Where does the Volga flow?", "q2": "What hunts at night?", "unjudged": "Who?"}
QRELS = "query-id\tcorpus-id\tscore\nq1\trivers\t1\nq2\towls\t1\nelsewhere\towls\t1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    corpus = [{"_id": key, "title": "", "text": text} for key, text in CORPUS.items()]
    queries = [{"_id": key, "text": text} for key, text in QUERIES.items()]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "qrels.tsv").write_text(QRELS)
    return tmp_path


def test_a_collection_holds_the_queries_that_were_judged(folder: Path) -> None:
    found = load_collection(folder)
    assert found.queries == {"q1": QUERIES["q1"], "q2": QUERIES["q2"]}
    assert found.judgements == {"q1": {"rivers": 1}, "q2": {"owls": 1}}
    assert list(load_collection(folder, limit=1).queries) == ["q1"]


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_collection_without_one_of_its_files_is_told_which(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(NotFound, match=name):
        load_collection(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("qrels.tsv", "query-id\tcorpus-id\tscore\n"),
        ("qrels.tsv", "query\tdocument\tgrade\nq1\trivers\t1\n"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\trivers\thigh\n"),
        ("queries.jsonl", "not json\n"),
        ("queries.jsonl", '{"id": "q1", "text": "?"}\n'),
        ("queries.jsonl", '["q1"]\n'),
    ],
)
def test_a_collection_that_makes_no_sense_is_refused_in_one_line(name: str, content: str, folder: Path) -> None:
    (folder / name).write_text(content)
    with pytest.raises(BadSettings) as caught:
        load_collection(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_empty_lines_in_a_collection_mean_nothing(folder: Path) -> None:
    queries = folder / "queries.jsonl"
    queries.write_text(queries.read_text().replace("\n", "\n\n"))
    assert len(load_collection(folder).queries) == 2


def test_measures_by_hand() -> None:
    """Two queries. The first finds its one document second: nDCG 1 / log2(3), reciprocal rank 1/2. The second finds
    nothing and counts as zero, not as absent.
    """
    ranking = Ranking(scores={"q1": {"wrong": 0.9, "right": 0.5}, "q2": {}}, ms=[5.0, 1.0])
    found = measure(ranking, {"q1": {"right": 1}, "q2": {"lost": 1}})
    assert found["ndcg@10"] == pytest.approx(1 / math.log2(3) / 2)
    assert found["recall@5"] == found["recall@10"] == pytest.approx(0.5)
    assert found["mrr"] == pytest.approx(0.25)
    assert (found["ms_p50"], found["ms_p95"]) == (5.0, 5.0)


def test_every_branch_ranks_documents_as_an_ask_would(parts: Parts, kb: KnowledgeBase, folder: Path) -> None:
    collection = load_collection(folder)
    ingest(parts, kb, collection.corpus)
    asked: list[int] = []
    found = rank(parts.knowledge_bases.find(kb.tenant, kb.name), collection, parts, asked.append)
    assert asked == [1, 2]
    assert tuple(found) == BRANCHES
    for branch in BRANCHES:
        assert set(found[branch].scores) == {"q1", "q2"}
        assert max(found[branch].scores["q1"], key=found[branch].scores["q1"].__getitem__) == "rivers"
        assert len(found[branch].ms) == 2
    assert measure(found["fused"], collection.judgements)["ndcg@10"] == pytest.approx(1.0)
