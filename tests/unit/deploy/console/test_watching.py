"""Outages while a run is watched."""

from __future__ import annotations

import pytest

from deploy.console.watching import Patience
from pipeline.errors import NotFound, Unreachable

RUN = "7d0f2f0a-3c59-4a53-8f4b-0f8a9b6e4c11"


class Watched:
    """Patience of a minute, on a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.patience = Patience(RUN, self.said.append, lambda: self.now, most=60)

    def look(self, at: float, error: Exception | None = None) -> None:
        self.now = at
        with self.patience.bearing():
            if error is not None:
                raise error


DOWN = Unreachable("Postgres can't be reached: refused.", "Is it running?", {"upstream": "postgres"})


def test_a_short_outage_is_said_once_and_so_is_its_end() -> None:
    watched = Watched()
    watched.look(0)
    for second in range(1, 50):
        watched.look(second, DOWN)
    assert len(watched.said) == 1
    assert watched.said[0].startswith(DOWN.message)
    watched.look(50)
    watched.look(51)
    assert watched.said[1:] == ["It is back."]


def test_a_long_one_ends_the_watching_with_the_way_back() -> None:
    watched = Watched()
    watched.look(0, DOWN)
    watched.look(59, DOWN)
    with pytest.raises(Unreachable) as caught:
        watched.look(60, DOWN)
    assert caught.value.message == DOWN.message
    assert f"manage.py runs watch {RUN}" in caught.value.hint
    assert caught.value.exit_status == 1


def test_the_time_counts_anew_after_each_outage() -> None:
    watched = Watched()
    watched.look(0, DOWN)
    watched.look(50)
    watched.look(60, DOWN)
    watched.look(119, DOWN)
    assert len(watched.said) == 3


def test_what_waiting_can_not_mend_is_told_at_once() -> None:
    with pytest.raises(NotFound):
        Watched().look(0, NotFound("There is no run."))
