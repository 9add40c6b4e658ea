"""Which questions are the same."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from pipeline.caching import keys
from pipeline.caching.keys import KeyMaker, Keys
from pipeline.settings import Settings
from pipeline.types import AskOptions, Question

# None changes a full answer: who is strict gets the same one or none.
OTHER_OPTIONS = {"strict", "cache", "bulk"}
# Properties of settings that keys are made of, and what decides them.
BEHIND = {
    "store_name": {"store", "weaviate_url"},
    "generator_name": {"chat_model", "openai_api_key", "openai_base_url"},
}
# Of a knowledge base that is there its row says the first two; what is ingested how is in its revision; `top_k`,
# `parents` and `strict` are defaults of options. The rest says where services are, how long they may take, what they
# may cost and how workers live.
OTHER_SETTINGS = {
    *("embedding_model", "embedding_dimensions"),
    *("chunk_tokens", "chunk_overlap_tokens", "parent_tokens", "max_source_bytes", "max_record_bytes"),
    *("fetch_timeout", "download_timeout", "max_download_bytes", "allow_private_addresses", "spool_ttl"),
    *("parse_timeout", "parse_memory_mb", "max_crashes", "ingest_patience", "batch_documents", "batch_tokens"),
    *("wave_batches", "waves_at_once", "embed_batch_texts", "embed_batch_tokens", "embed_concurrency"),
    *("top_k", "parents", "strict"),
    *("redis_url", "database_url", "weaviate_grpc_url", "weaviate_api_key", "rerank_api_key", "home", "namespace"),
    *("max_question_chars", "ask_timeout", "embed_timeout", "question_embed_timeout", "search_timeout"),
    *("generate_timeout", "silence_timeout", "silence_least", "degrade_after", "write_timeout", "statement_timeout"),
    *("connect_timeout",),
    *("stream_ttl", "result_ttl", "dead_letter_days", "cache", "cache_ttl", "cache_stored_ttl", "cache_memory_mb"),
    *(
        "database_pool",
        "redis_connections",
        "heartbeat_ttl",
        "sweep_every",
        "visibility_timeout",
        "task_events",
        "hand_over",
    ),
    *("chat_turns", "chat_tokens", "rewrite_timeout"),  # of follow-ups, which no cache serves
    *("max_retries", "retry_backoff", "retry_backoff_max", "log_format", "log_level"),
    *("prices", "limits", "interactive_share", "breaker_faults", "breaker_seconds", "budget_usd", "budget_tokens"),
}
OTHER_OF_QUESTION = {"id", "kb", "submitted_at", "deadline", "epoch", "replay", "turn"}
"""Knowledge bases are told apart by id and revision, beside the key; a replay is never served, nor a follow-up."""


def keyed(text: str = "Where is it?", tenant: str = "default", settings: Any = None, **options: object) -> Keys:
    asked = Question(
        id="q", text=text, tenant=tenant, options=AskOptions.decode(options), submitted_at=0.0, deadline=1.0
    )
    return KeyMaker(Settings(**(settings or {}))).keys(asked)


def test_every_option_and_setting_is_known_to_shape_a_result_or_not_to() -> None:
    """Whoever adds one must say which: what shapes an answer and is in no key would give stale answers."""
    assert {*keys.OPTIONS_OF_RETRIEVAL, *keys.OPTIONS_OF_ANSWER} | OTHER_OPTIONS == set(AskOptions.model_fields)
    named = {*keys.SETTINGS_OF_VECTOR, *keys.SETTINGS_OF_RETRIEVAL, *keys.SETTINGS_OF_ANSWER}
    shaping = {name for one in named for name in BEHIND.get(one, {one})}
    assert shaping | OTHER_SETTINGS == set(Settings.model_fields)
    assert not shaping & OTHER_SETTINGS
    assert {"text", "tenant", "options"} | OTHER_OF_QUESTION == set(Question.model_fields)


def test_the_same_question_is_known_by_its_words_whatever_lies_between_them() -> None:
    text = "Où est le café ?"
    assert keyed(unicodedata.normalize("NFD", text)) == keyed(text) == keyed("Où  est\n le café\t?")
    assert len({keyed(), keyed("where is it?"), keyed("Where is it")}) == 3


def test_tenants_have_nothing_in_common() -> None:
    assert not set(keyed()) & set(keyed(tenant="acme"))


@pytest.mark.parametrize(
    "options", [{"top_k": 6}, {"min_score": 0.1}, {"alpha": 0.5}, {"fusion": "rrf"}, {"parents": True}]
)
def test_what_shapes_the_passages_shapes_the_answer_too(options: dict[str, Any]) -> None:
    one, other = keyed(), keyed(**options)
    assert one.vector == other.vector
    assert one.retrieval != other.retrieval
    assert one.answer != other.answer


@pytest.mark.parametrize("options", [{"model": "m"}, {"reasoning_effort": "low"}, {"verbosity": "low"}])
def test_what_shapes_the_answer_leaves_the_passages_as_they_are(options: dict[str, Any]) -> None:
    one, other = keyed(), keyed(**options)
    assert (one.vector, one.retrieval) == (other.vector, other.retrieval)
    assert one.answer != other.answer


@pytest.mark.parametrize(
    ("settings", "stays"),
    [
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, 0),
        ({"store": "weaviate"}, 1),
        ({"candidates": 10}, 1),
        ({"alpha": 0.1}, 1),
        ({"keyword_language": "german"}, 1),
        ({"rerank_url": "http://127.0.0.1:1/rerank"}, 1),
        ({"chat_model": "m"}, 2),
        ({"verbosity": "high"}, 2),
        ({"prices": {"m": [1, 1]}}, 3),
    ],
)
def test_a_setting_changes_the_keys_of_what_it_shapes(settings: dict[str, Any], stays: int) -> None:
    same = [a == b for a, b in zip(keyed(), keyed(settings=settings), strict=True)]
    assert same == [True] * stays + [False] * (3 - stays)


def test_a_model_is_the_same_whether_the_question_or_a_setting_names_it() -> None:
    assert keyed(settings={"chat_model": "m"}, model="m") == keyed(settings={"chat_model": "m"})


def test_another_prompt_makes_other_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keyed()
    monkeypatch.setattr(keys.prompts, "BRIEF", "Be brief.")
    after = keyed()
    assert (before.retrieval, before.answer != after.answer) == (after.retrieval, True)
