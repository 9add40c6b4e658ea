from __future__ import annotations

import threading

import pytest

from pipeline.cancelling import Abort
from pipeline.errors import Cancelled


def test_an_action_is_called_once_however_often_it_is_triggered() -> None:
    abort, called = Abort(), list[str]()
    with abort.calling(lambda: called.append("a")):
        assert not abort.triggered
        abort.trigger()
        abort.trigger()
    assert abort.triggered
    assert called == ["a"]


def test_where_it_is_triggered_already_the_action_is_called_at_once() -> None:
    abort, called = Abort(), list[str]()
    abort.trigger()
    with abort.calling(lambda: called.append("a")):
        assert called == ["a"]


def test_after_the_end_of_the_work_the_action_is_not_called() -> None:
    """What it would cut off may be somebody else's by then."""
    abort, called = Abort(), list[str]()
    with abort.calling(lambda: called.append("a")):
        pass
    abort.trigger()
    assert called == []


def test_the_work_does_not_end_while_its_action_runs() -> None:
    abort, begun, go_on, ended = Abort(), threading.Event(), threading.Event(), threading.Event()

    def action() -> None:
        begun.set()
        go_on.wait(5)
        assert not ended.is_set()

    def work() -> None:
        with abort.calling(action):
            entered.set()
            begun.wait(5)
        ended.set()

    entered = threading.Event()
    worker = threading.Thread(target=work)
    worker.start()
    assert entered.wait(5)
    trigger = threading.Thread(target=abort.trigger)
    trigger.start()
    assert begun.wait(5)
    assert not ended.wait(0.05)
    go_on.set()
    worker.join(5)
    trigger.join(5)
    assert ended.is_set()


def test_an_action_may_ask_and_trigger_again() -> None:
    abort, seen = Abort(), list[bool]()

    def action() -> None:
        abort.trigger()
        seen.append(abort.triggered)

    with abort.calling(action):
        abort.trigger()
    assert seen == [True]


def test_a_check_raises_from_the_moment_it_is_triggered() -> None:
    abort = Abort()
    abort.check()
    abort.trigger()
    with pytest.raises(Cancelled):
        abort.check()
