from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tasks.forking import ForkGuard


@pytest.fixture(scope="module")
def guard() -> ForkGuard:
    from tasks.forking import ForkGuard

    return ForkGuard()


def forked(guard: ForkGuard) -> int:
    """The exit status of a child that goes inside: 0 where it could."""
    child = os.fork()
    if child == 0:
        alive = True
        try:
            thread = threading.Thread(target=lambda: guard.whole().__enter__(), daemon=True)
            thread.start()
            thread.join(2.0)
            alive = thread.is_alive()
        finally:
            os._exit(int(alive))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_fork_waits_for_what_is_done_inside_and_the_child_may_go_inside(guard: ForkGuard) -> None:
    inside, done = threading.Event(), threading.Event()

    def work() -> None:
        with guard.whole():
            inside.set()
            time.sleep(0.5)
            done.set()

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    assert forked(guard) == 0
    assert done.is_set()
    thread.join()


def test_what_takes_long_holds_nothing_up_and_the_child_may_go_inside(
    guard: ForkGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.forking.LONGEST", 0.2)
    inside, over = threading.Event(), threading.Event()

    def work() -> None:
        with guard.whole():
            inside.set()
            over.wait(20)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    assert forked(guard) == 0
    assert thread.is_alive()
    over.set()
    thread.join()
    with guard.whole():
        pass


def test_otherwise_nothing_is_held_up(guard: ForkGuard) -> None:
    for _ in range(3):
        assert forked(guard) == 0
    with guard.whole():
        pass
