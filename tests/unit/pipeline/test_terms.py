from __future__ import annotations

from pipeline.terms import terms


def test_forms_of_a_word_are_one_term() -> None:
    assert terms("acknowledged") == terms("Acknowledging") == terms("ACKNOWLEDGES")
    assert terms("Warteschlange") == terms("warteschlangen")


def test_words_that_every_sentence_holds_are_no_terms() -> None:
    assert terms("What is the broker, and why is it there?") == terms("broker")
    assert terms("¿Qué es el broker?") == terms("Wo ist der Broker?") == terms("broker")


def test_identifiers_are_taken_apart_and_numbers_kept_whole() -> None:
    assert terms("task_acks_late") == terms("task acks late")
    assert terms("6.2.14 in 2023012") == {"6", "2", "14", "2023012"}
    assert terms("port5432a") != terms("port5433b")


def test_scripts_without_spaces_share_terms_where_they_share_characters() -> None:
    assert terms("東京都の人口") & terms("人口は多い") == {"人口"}
    assert terms("人") == {"人"}


def test_a_text_without_words_has_no_terms() -> None:
    assert terms("?! — …") == frozenset()
