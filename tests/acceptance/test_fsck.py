"""``fsck`` as an operator runs it: damage on purpose, exit statuses, what is printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.live_stack import LiveStack
from tests.command_line import CommandLine

KB = "checked"


@pytest.fixture(scope="module")
def stack(offline: LiveStack, tmp_path_factory: pytest.TempPathFactory) -> LiveStack:
    """A stack with two documents in a knowledge base of its own."""
    folder = tmp_path_factory.mktemp("checked")
    (folder / "owls.txt").write_text("Owls hunt at night and see in the dark.")
    (folder / "bread.txt").write_text("Sourdough bread rises slowly overnight.")
    assert offline.cli("ingest", folder, "--kb", KB, "--json").json["indexed"] == 2
    return offline


@pytest.fixture
def cli(stack: LiveStack) -> Iterator[CommandLine]:
    """The command line; afterwards the knowledge base is whole again."""
    yield stack.cli
    assert stack.cli("fsck", "--kb", KB, "--repair", "--json").status == 0


def lose_vectors(stack: LiveStack) -> None:
    """What a store that lost its data looks like."""
    [found] = stack.sql("SELECT relname FROM pg_class WHERE relname LIKE 'vectors\\_%%' AND relkind = 'r'")
    kb = "(SELECT id FROM knowledge_bases WHERE name = %s)"
    for table in ("vectors", "keywords", "term_counts", "corpus"):
        name = found["relname"].replace("vectors", table, 1)
        stack.sql(f"DELETE FROM {name} WHERE kb_id = {kb}", KB)


def test_a_sound_knowledge_base_exits_with_0(cli: CommandLine) -> None:
    shown = cli("fsck", "--kb", KB)
    assert shown.status == 0, shown
    assert "2 live chunks, 2 entries in pgvector" in shown.out
    assert "all is well" in shown.out


def test_what_is_found_exits_with_1_and_is_shown_with_examples(cli: CommandLine, stack: LiveStack) -> None:
    lose_vectors(stack)

    shown = cli("fsck", "--kb", KB)

    assert shown.status == 1, shown
    assert "The store has lost all of it." in shown.out
    assert "2  missing: live chunks that the store lacks" in shown.out
    assert "owls.txt · chunk " in shown.out
    assert "--repair" in shown.err


def test_repair_exits_with_0_and_the_questions_are_answered_again(cli: CommandLine, stack: LiveStack) -> None:
    lose_vectors(stack)

    repaired = cli("fsck", "--kb", KB, "--repair")

    assert repaired.status == 0, repaired
    assert "2  chunks written" in repaired.out
    assert repaired.out.rstrip().endswith("all is well")
    assert "night" in cli("ask", "When do owls hunt?", "--kb", KB).out


def test_programs_get_all_counts(cli: CommandLine, stack: LiveStack) -> None:
    lose_vectors(stack)

    found = cli("fsck", "--kb", KB, "--json", "--examples", "1")
    assert found.status == 1, found
    report = json.loads(found.out)
    assert not report["ok"]
    [one] = report["knowledge_bases"]
    assert (one["name"], one["store"], one["ok"]) == (KB, "pgvector", False)
    assert (one["found"]["counts"], one["found"]["lost"]) == ({"missing": 2}, True)
    assert len(one["found"]["examples"]["missing"]) == 1

    [one] = cli("fsck", "--kb", KB, "--json", "--repair").json["knowledge_bases"]
    assert (one["ok"], one["found"]["clean"], one["left"]["clean"]) == (True, False, True)
    assert (one["repaired"]["written"], one["repaired"]["embedded"]) == (2, 0)


def test_texts_that_must_be_embedded_again_are_told_before(cli: CommandLine, stack: LiveStack) -> None:
    lose_vectors(stack)
    stack.sql(
        """
        DELETE FROM embeddings WHERE hash IN (
            SELECT embed_hash FROM chunks c JOIN knowledge_bases k ON k.id = c.kb_id WHERE k.name = %s)
    """,
        KB,
    )

    assert "2 texts are not in the cache of embeddings" in cli("fsck", "--kb", KB).out
    assert "2  texts embedded" in cli("fsck", "--kb", KB, "--repair").out


def test_all_looks_at_every_knowledge_base_of_the_tenant(cli: CommandLine) -> None:
    for name in ("first", "second"):
        assert cli("kb", "create", name, "--tenant", "audited").status == 0
    found = cli("fsck", "--all", "--tenant", "audited", "--json").json["knowledge_bases"]
    assert sorted(one["name"] for one in found) == ["first", "second"]
    assert cli("fsck", "--all", "--tenant", "nobody", "--json").json == {"ok": True, "knowledge_bases": []}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--kb", "no-such"), "no knowledge base 'no-such'"),
        (("--kb", KB, "--all"), "--kb and --all"),
        (("--examples", "-1"), "--examples"),
    ],
)
def test_what_makes_no_sense_exits_with_2(cli: CommandLine, arguments: tuple[str, ...], said: str) -> None:
    assert said in cli("fsck", *arguments).error(2)


def test_a_knowledge_base_of_another_store_exits_with_2(cli: CommandLine) -> None:
    other = cli.with_environment(CELERIAC_STORE="weaviate", WEAVIATE_URL="http://127.0.0.1:1")
    assert "lives in pgvector" in other("fsck", "--kb", KB).error(2)


def test_a_database_that_is_down_is_told_in_one_line(cli: CommandLine, tmp_path: Path) -> None:
    nowhere = cli.with_environment(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none", CELERIAC_HOME=str(tmp_path))
    assert "can't be reached" in nowhere("fsck").error(1)
