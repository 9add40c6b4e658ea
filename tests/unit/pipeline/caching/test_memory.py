from __future__ import annotations

from pipeline.caching.memory import Memory


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_too_old_is_gone() -> None:
    clock = Clock()
    memory = Memory(10_000, 5.0, clock)
    memory.put("a", b"1")
    clock.now = 4.9
    assert memory.get("a") == b"1"
    clock.now = 5.0
    assert memory.get("a") is None


def test_what_was_not_used_for_longest_makes_room() -> None:
    memory = Memory(4_500, 60.0)
    for name in "abc":
        memory.put(name, bytes(900))
    assert memory.get("a")
    memory.put("d", bytes(900))
    assert [name for name in "abcd" if memory.get(name) is None] == ["b"]


def test_it_counts_a_value_once_however_often_it_is_put() -> None:
    memory = Memory(3_000, 60.0)
    memory.put("a", bytes(900))
    for _ in range(5):
        memory.put("b", bytes(900))
    assert memory.get("a")
    assert memory.get("b")


def test_without_room_or_time_it_keeps_nothing() -> None:
    for memory in (Memory(0, 60.0), Memory(10_000, 0.0), Memory(100, 60.0)):
        memory.put("a", bytes(200))
        assert memory.get("a") is None
