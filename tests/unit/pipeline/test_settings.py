from __future__ import annotations

import pytest

from pipeline import settings
from pipeline.errors import BadSettings
from pipeline.settings import Settings, load, refuse_unknown

SECRETS = ("REDIS_URL", "DATABASE_URL", "OPENAI_API_KEY", "WEAVIATE_API_KEY", "CELERIAC_RERANK_API_KEY")


def test_without_an_environment_everything_is_embedded_and_offline() -> None:
    found = load()
    assert (found.redis_url, found.database_url, found.weaviate_url) == (None, None, None)
    assert (found.store_name, found.embedder_name, found.generator_name) == ("pgvector", "wordllama-256", "extractive")


@pytest.mark.parametrize("service", ["OPENAI_API_KEY", "OPENAI_BASE_URL"])
def test_a_key_or_an_address_moves_both_models_to_the_service(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(service, "x")
    assert (load().embedder_name, load().generator_name) == ("text-embedding-3-small", "gpt-6-luna")


def test_a_weaviate_moves_the_store_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAVIATE_URL", "http://localhost:8080")
    assert load().store_name == "weaviate"
    monkeypatch.setenv("CELERIAC_STORE", "pgvector")
    assert load().store_name == "pgvector"


@pytest.mark.parametrize(
    ("name", "near"),
    [("CELERIAC_TOPK", "CELERIAC_TOP_K"), ("CELERIAC_STORES", "CELERIAC_STORE"), ("celeriac_alfa", "CELERIAC_ALPHA")],
)
def test_a_typing_mistake_is_refused_with_the_nearest_name(
    name: str, near: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(BadSettings) as caught:
        load()
    assert name in caught.value.message
    assert near in caught.value.hint


def test_a_name_like_no_other_is_refused_too_and_names_of_others_are_none_of_ours() -> None:
    with pytest.raises(BadSettings, match="QUUX"):
        refuse_unknown({"CELERIAC_QUUX": "1"})
    refuse_unknown({"OPENAI_ORGANIZATION": "x", "REDIS_HOST": "y", "MY_CELERIAC_THING": "z"})


@pytest.mark.parametrize("name", [*SECRETS, "CELERIAC_TOP_K", "celeriac_alpha"])
def test_every_name_of_a_setting_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = "redis://host" if name == "REDIS_URL" else "1"
    monkeypatch.setenv(name, given)
    value = getattr(load(), name.lower().removeprefix("celeriac_"))
    assert (str(int(value)) if isinstance(value, int | float) else value.get_secret_value()) == given


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CELERIAC_TOP_K", "many"),
        ("CELERIAC_TOP_K", "0"),
        ("CELERIAC_ALPHA", "2"),
        ("CELERIAC_STORE", "chroma"),
        ("CELERIAC_PRICES", "{not json"),
        ("CELERIAC_PRICES", '{"model": [1]}'),
        ("CELERIAC_LIMITS", '{"model": [0, null]}'),
        ("CELERIAC_LIMITS", "600"),
        ("CELERIAC_BUDGET_USD", '{"*": -1}'),
        ("CELERIAC_BUDGET_TOKENS", '{"*": 0.5}'),
        ("CELERIAC_TASK_EVENTS", "perhaps"),
        ("REDIS_URL", "redis://:pa#ss@host"),
        ("REDIS_URL", "localhost:6379"),
        ("CELERIAC_LOG_LEVEL", "LOUD"),
    ],
)
def test_a_bad_value_is_told_in_one_line_by_the_name_its_reader_knows(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings) as caught:
        load()
    assert caught.value.message.startswith(name)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.hint


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_TOP_K", "")
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert (load().top_k, load().uses_openai) == (5, False)


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_masked_wherever_the_settings_are_printed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "redis://me:hunter2@host")
    found = load()
    assert "hunter2" not in f"{found!r} {found} {found.model_dump()} {found.model_dump_json()}"


@pytest.mark.parametrize("name", SECRETS)
def test_a_refused_setting_shows_no_secret_beside_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "redis://me:hunter2@host")
    monkeypatch.setenv("CELERIAC_TOP_K", "hunter2")
    with pytest.raises(BadSettings) as caught:
        load()
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize("url", ["redis://:hunter2#x@host", "redis://me:hun/ter2@host", "hunter2"])
def test_an_address_of_redis_that_is_none_is_not_repeated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(BadSettings, match="REDIS_URL") as caught:
        load()
    assert "ter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_TOP_K", "7")
    monkeypatch.setenv("REDIS_URL", "redis://environment")
    found = load(top_k=9, redis_url="redis://argument")
    assert found.top_k == 9
    assert found.redis_url is not None
    assert found.redis_url.get_secret_value() == "redis://argument"


def test_an_argument_that_is_no_setting_is_refused() -> None:
    with pytest.raises(BadSettings, match="TOPK"):
        load(topk=9)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().top_k = 9  # type: ignore[misc]


def test_every_setting_can_be_set_by_a_name_of_its_own() -> None:
    """Names the world knows as they are; all others under our prefix, so that refuse_unknown can know them."""
    known = {field.validation_alias.choices[0] for field in Settings.model_fields.values() if field.validation_alias}  # type: ignore[union-attr]
    assert known == {
        *("REDIS_URL", "DATABASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
        *("WEAVIATE_URL", "WEAVIATE_GRPC_URL", "WEAVIATE_API_KEY"),
    }
    assert not any(name.startswith(settings.PREFIX) for name in known)


def test_limits_and_budgets_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_LIMITS", '{"m": [600, null], "n": [null, 90000]}')
    monkeypatch.setenv("CELERIAC_BUDGET_USD", '{"*": 5, "acme": 0}')
    found = load()
    assert found.limits == {"m": (600, None), "n": (None, 90_000)}
    assert found.budget_usd == {"*": 5, "acme": 0}
