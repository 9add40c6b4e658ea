"""Tokens out of a cache are those of the whole text."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pipeline.adapters import llama_tokens
from pipeline.adapters.llama_tokens import token_ids, token_starts, tokenizer

SPECIAL = " \n\t.,a\xe9b\xdf\u65e5\u672c\U0001f642\u200d\u0301xyz  \n\n#\u2581\xa0"


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_tokens, "_known", {})
    monkeypatch.setattr(llama_tokens, "_known_beginnings", {})


def assert_same(text: str) -> None:
    whole = tokenizer().encode(text, add_special_tokens=False)
    for _ in range(2):  # the second time out of the cache
        assert token_ids(text) == whole.ids
        assert token_starts(text).tolist() == [start for start, _ in whole.offsets]


@pytest.mark.parametrize(
    "text", ["", " ", "\n", "\u2581", "a", " a", "a ", "a  b", "\n\na", "a\n", "\u2581a\u2581 b", "日本 語\n"]
)
def test_short_texts_have_the_tokens_of_the_tokenizer(text: str) -> None:
    assert_same(text)


def test_random_texts_have_the_tokens_of_the_tokenizer() -> None:
    draw = random.Random(7)
    for _ in range(2000):
        assert_same("".join(draw.choice(SPECIAL) for _ in range(draw.randint(0, 60))))


@pytest.mark.parametrize("collection", ["scifact", "xquad_en", "anthropic_docs_rag"])
def test_real_texts_have_the_tokens_of_the_tokenizer(collection: str, shared_data: Path) -> None:
    lines = (shared_data / collection / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[:150]
    for line in lines:
        assert_same(json.loads(line)["text"][:16_000])


def test_many_new_words_at_once_are_each_learned_whole() -> None:
    """More of them than go into one call of the tokenizer."""
    draw = random.Random(3)
    text = " ".join(f"w{draw.randint(0, 10**9)}q" for _ in range(3000))
    assert_same(text)


@pytest.mark.parametrize("special", ["<s>", "</s>", "<unk>"])
def test_what_looks_like_a_special_token_is_text_and_leaves_the_words_beside_it_as_they_are(special: str) -> None:
    assert_same(f"a {special} natural x{special} motion{special} {special}{special} needs no force {special}y")
    for word in ("natural", "motion", "needs", "no", "force"):
        assert_same(f"a {word}")
    assert not {0, 1, 2} & set(token_ids(f"a {special}"))


def test_the_cache_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_tokens, "_CACHED_PIECES", 50)
    for number in range(40):
        assert_same(f"{number} one two{number} three{number}\nfour{number} five")
    assert len(llama_tokens._known) <= 50
    assert len(llama_tokens._known_beginnings) <= 50


def test_a_text_of_more_words_than_are_kept_leaves_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_tokens, "_CACHED_PIECES", 50)
    assert_same(" ".join(f"w{number}" for number in range(200)))
    assert len(llama_tokens._known) <= 50
