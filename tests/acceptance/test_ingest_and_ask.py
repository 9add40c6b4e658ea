"""From documents to cited answers, by ``manage.py`` and real workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import docx
import pytest

from tests.acceptance.conftest import PARAGRAPHS, Corpus
from tests.acceptance.live_stack import LiveStack
from tests.command_line import Outcome
from tests.pdf_file import pdf

STAGES = ["guard", "embed", "search", "enrich", "generate", "record"]


@pytest.fixture(scope="module")
def answers(filled: LiveStack, corpus: Corpus) -> list[Outcome]:
    """Twenty questions asked at once by twenty processes."""
    return filled.cli.at_once([("ask", question, "--json") for question in corpus.questions], timeout=240)


class TestAsking:
    def test_twenty_at_once_are_all_answered_with_citations(self, answers: list[Outcome]) -> None:
        found = [outcome.json for outcome in answers]
        assert [answer["outcome"] for answer in found] == ["answered"] * 20
        assert all(answer["citations"] for answer in found)
        assert all([timing["stage"] for timing in answer["timings"]] == STAGES for answer in found)

    def test_every_quote_is_that_stretch_of_the_stored_document(
        self, answers: list[Outcome], filled: LiveStack
    ) -> None:
        citations = [citation for outcome in answers for citation in outcome.json["citations"]]
        texts = _live_texts(filled)
        assert citations
        for citation in citations:
            assert texts[citation["document_id"]][citation["start"] : citation["end"]] == citation["quote"]
            assert citation["quote"]

    def test_each_is_recorded_once_with_its_stages(self, answers: list[Outcome], filled: LiveStack) -> None:
        for outcome in answers:
            answer = outcome.json
            row = filled.sql("SELECT * FROM questions WHERE id = %s", answer["question_id"])[0]
            assert (row["status"], row["answer"]) == ("done", answer["text"])
            assert _stages_of(filled, answer["question_id"]) == STAGES

    def test_result_reads_the_same_answer_later(self, answers: list[Outcome], filled: LiveStack) -> None:
        answer = answers[0].json
        later = filled.cli("result", answer["question_id"], "--json").json
        assert (later["text"], later["citations"]) == (answer["text"], answer["citations"])

    def test_the_chain_and_one_process_give_the_same_answer(
        self, answers: list[Outcome], filled: LiveStack, corpus: Corpus
    ) -> None:
        local = filled.cli.at_once([("ask", question, "--json", "--local") for question in corpus.questions[:3]])
        for chained, here in zip(answers, local, strict=False):
            assert _comparable(chained.json) == _comparable(here.json)

    def test_parents_are_read_instead_of_chunks_where_asked_for(self, offline: LiveStack, tmp_path: Path) -> None:
        text = " ".join(f"On day {day} the ferry carries {day * 7} sheep across the fjord." for day in range(60))
        (tmp_path / "ferry.txt").write_text(text)
        assert offline.cli("ingest", tmp_path, "--kb", "parents", "--json").json["indexed"] == 1
        ask = ("ask", "How many sheep does the ferry carry on day 41?", "--kb", "parents", "--show-context", "--json")
        outcomes = offline.cli.at_once([ask, (*ask, "--parents"), (*ask, "--parents", "--local")])
        narrow, wide, here = (outcome.json for outcome in outcomes)
        assert len(wide["passages"]) < len(narrow["passages"])
        for passage in wide["context"]:
            assert passage["text"] == text[passage["start"] : passage["end"]]
        assert wide["citations"]
        assert all(text[c["start"] : c["end"]] == c["quote"] for c in wide["citations"])
        assert _comparable(here) == _comparable(wide)

    def test_what_people_read_has_answer_citations_and_timings(self, filled: LiveStack, corpus: Corpus) -> None:
        shown = filled.cli("ask", corpus.questions[0], "--show-context")
        assert shown.status == 0, shown
        assert "[1]" in shown.out
        assert "characters" in shown.out
        assert all(stage in shown.out for stage in STAGES)
        assert "── " in shown.out

    def test_a_detached_question_is_read_by_its_id(self, filled: LiveStack, corpus: Corpus) -> None:
        asked = filled.cli("ask", corpus.questions[1], "--detach")
        assert asked.status == 0, asked
        assert filled.settles()
        assert filled.cli("result", asked.out.strip(), "--json").json["citations"]

    def test_emoji_are_a_question_like_any_other(self, filled: LiveStack) -> None:
        answer = filled.cli("ask", "🏈 How many points did the 🐾 Panthers defense give up? 🏴󠁧󠁢󠁥󠁮󠁧󠁿 👩‍🔬", "--json").json
        assert "308" in answer["text"]

    def test_what_no_passage_speaks_of_is_said_not_to_be_there(self, filled: LiveStack) -> None:
        answer = filled.cli("ask", "zxqv wvutz?", "--min-score", "0.9", "--json").json
        assert (answer["outcome"], answer["mode"], answer["citations"]) == ("not_in_knowledge_base", "none", [])

    def test_search_shows_the_score_of_each_branch(self, filled: LiveStack) -> None:
        passages = filled.cli("search", "Panthers defense points", "--json", "--top-k", "3").json["passages"]
        assert len(passages) == 3
        assert "308 points" in passages[0]["text"]
        assert passages[0]["vector_score"] > 0
        assert passages[0]["keyword_score"] > 0


class TestIngesting:
    def test_docs_kb_and_sql_agree_on_what_is_stored(self, filled: LiveStack) -> None:
        kb = filled.cli("kb", "show", "default", "--json").json
        docs = filled.cli("docs", "list", "--json", "--limit", "1000").json
        document = filled.cli("docs", "show", "p0", "--json", "--chunks").json
        stored = filled.sql("SELECT count(*) AS n FROM chunks WHERE kb_id = %s", kb["id"])[0]["n"]
        assert (kb["documents"], kb["failed"], kb["chunks"]) == (PARAGRAPHS, 0, stored)
        assert len(docs) == PARAGRAPHS
        assert sum(row["chunks"] for row in docs) == stored
        assert document["characters"] == len(_live_texts(filled)[document["id"]])
        assert document["chunks"] == len(document["passages"])

    def test_a_second_ingest_embeds_and_indexes_nothing(self, filled: LiveStack, corpus: Corpus) -> None:
        again = filled.cli("ingest", corpus.file, "--json").json
        assert (again["indexed"], again["unchanged"], again["embedded"]) == (0, PARAGRAPHS, 0)

    def test_every_format_is_indexed_with_its_place(self, offline: LiveStack, tmp_path: Path) -> None:
        _write_every_format(tmp_path)
        run = offline.cli("ingest", tmp_path, "--kb", "formats", "--json").json
        assert (run["indexed"], run["failed"], run["skipped"]) == (8, 0, 1)
        queries = {
            "Who repairs the telescope mirror?": "notes.md",
            "Which fern grows on basalt?": "page.html",
            "How long is the funicular?": "paper.pdf",
            "What does the beekeeper harvest?": "letter.docx",
            "Wie viel kostet die Crème brûlée im Café?": "latin.txt",
        }
        outcomes = offline.cli.at_once([("ask", query, "--kb", "formats", "--json") for query in queries])
        cited = {query: outcome.json["citations"][0] for query, outcome in zip(queries, outcomes, strict=True)}
        assert {query: Path(citation["source"]).name for query, citation in cited.items()} == queries
        assert cited["How long is the funicular?"]["page"] == 2
        assert cited["Who repairs the telescope mirror?"]["section"].startswith("Observatory")
        assert "Crème brûlée" in cited["Wie viel kostet die Crème brûlée im Café?"]["quote"]

    def test_fields_of_records_are_configurable(self, offline: LiveStack, tmp_path: Path) -> None:
        records = [{"nr": 7, "head": "Harbour", "body": "The ferry leaves at noon.", "noise": "zebra"}]
        (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, records)))
        fields = ("--text-field", "body", "--title-field", "head", "--id-field", "nr")
        offline.cli("ingest", tmp_path, "--kb", "fields", "--json", *fields).json  # noqa: B018 - asserts
        document = offline.cli("docs", "show", "7", "--kb", "fields", "--json", "--chunks").json
        assert document["title"] == "Harbour"
        assert [passage["text"] for passage in document["passages"]] == ["The ferry leaves at noon."]

    def test_a_changed_file_is_indexed_anew_and_its_old_text_is_gone(self, offline: LiveStack, tmp_path: Path) -> None:
        def ingest_and_ask(text: str) -> str:
            (tmp_path / "hours.txt").write_text(text)
            assert offline.cli("ingest", tmp_path, "--kb", "changing", "--json").json["indexed"] == 1
            found = offline.cli("search", "library opening hours", "--kb", "changing", "--json").json
            return " ".join(passage["text"] for passage in found["passages"])

        assert "nine" in ingest_and_ask("The library opens at nine o'clock.")
        assert ingest_and_ask("The library opens at eleven o'clock.") == "The library opens at eleven o'clock."
        assert len(_live_texts(offline, "changing")) == 1
        kept = offline.sql(
            "SELECT c.text FROM chunks c JOIN knowledge_bases k ON k.id = c.kb_id WHERE name = 'changing'"
        )
        assert [row["text"] for row in kept] == ["The library opens at eleven o'clock."]

    def test_a_vanished_file_is_removed_only_when_asked_to(self, offline: LiveStack, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("Apples are red.")
        (tmp_path / "b.txt").write_text("Bananas are yellow.")
        ingest = ("ingest", tmp_path, "--kb", "vanishing", "--json")
        assert offline.cli(*ingest).json["indexed"] == 2
        (tmp_path / "b.txt").unlink()
        assert offline.cli(*ingest).json["pruned"] == 0
        assert len(offline.cli("docs", "list", "--kb", "vanishing", "--json").json) == 2
        assert offline.cli(*ingest, "--prune").json["pruned"] == 1
        assert [row["key"] for row in offline.cli("docs", "list", "--kb", "vanishing", "--json").json] == [
            str(tmp_path / "a.txt")
        ]


def _live_texts(stack: LiveStack, kb: str = "default") -> dict[str, str]:
    rows = stack.sql(
        """
        SELECT d.id::text AS id, v.text FROM document_versions v
        JOIN documents d ON d.id = v.document_id AND d.live_generation = v.generation
        JOIN knowledge_bases k ON k.id = d.kb_id WHERE k.name = %s
        """,
        kb,
    )
    return {row["id"]: row["text"] for row in rows}


def _stages_of(stack: LiveStack, question: str) -> list[str]:
    rows = stack.sql("SELECT stage FROM stage_timings WHERE question_id = %s ORDER BY ordinal", question)
    return [row["stage"] for row in rows]


def _comparable(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in ("outcome", "mode", "text", "citations", "passages", "flags", "degraded")}


def _write_every_format(folder: Path) -> None:
    (folder / "notes.md").write_text("# Observatory\n\n## Optics\n\nAnna repairs the telescope mirror every spring.\n")
    (folder / "page.html").write_text(
        "<html><head><title>Ferns</title></head><body><p>The bracken fern grows on basalt.</p></body></html>"
    )
    (folder / "paper.pdf").write_bytes(pdf([["A cover page."], ["The funicular is 420 metres long."]], "Railways"))
    letter = docx.Document()
    letter.add_heading("Letter", level=1)
    letter.add_paragraph("The beekeeper harvests lavender honey in July.")
    letter.save(str(folder / "letter.docx"))
    (folder / "table.csv").write_text("id,name,text\nc1,Quartz,Quartz is hard.\nc2,Talc,Talc is soft.\n")
    (folder / "records.jsonl").write_text('{"id": "j1", "text": "Kites need wind."}\n')
    (folder / "latin.txt").write_bytes("Im Café Größenwahn kostet die Crème brûlée sieben Mark.".encode("latin-1"))
    (folder / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n")
