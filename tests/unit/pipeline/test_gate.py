"""The gate as a value: no clock, no store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.gate import (
    FAULTS_TO_CLOSE,
    LONGEST_CLOSURE,
    MOST_GROWTH,
    PROBE_SECONDS,
    SHORTEST_CLOSURE,
    STALE_AFTER,
    Entry,
    Gate,
    enter,
    faulted,
    left,
    refused,
    worked,
)

NOW = 1000.0
OPEN = Gate(opened_at=NOW - 100, proven_at=NOW)


def probing(gate: Gate, now: float) -> Gate:
    """The gate after its probe was let in."""
    gate, entry = enter(gate, now)
    assert entry.probe
    return gate


def test_an_open_gate_lets_all_through() -> None:
    assert enter(OPEN, NOW) == (OPEN, Entry())


def test_a_new_gate_lets_one_probe_through_at_a_time() -> None:
    gate = probing(Gate(), NOW)
    _, second = enter(gate, NOW + 1)
    assert not second.probe
    assert second.wait > 0


def test_a_probe_that_worked_opens_it() -> None:
    gate = worked(probing(Gate(), NOW), NOW + 0.3, probe=True)
    assert enter(gate, NOW + 0.3)[1] == Entry()


def test_a_probe_that_is_never_heard_of_again_is_followed_by_another() -> None:
    probing(probing(Gate(), NOW), NOW + PROBE_SECONDS)


def test_a_probe_that_was_not_sent_makes_room_for_the_next() -> None:
    probing(left(probing(Gate(), NOW), probe=True), NOW)


def test_what_worked_long_ago_is_proven_anew() -> None:
    probing(OPEN, NOW + STALE_AFTER)


def test_while_it_works_it_stays_open() -> None:
    gate = OPEN
    for second in range(0, 300, 20):
        gate = worked(gate, NOW + second, probe=False)
        assert enter(gate, NOW + second) == (gate, Entry())


def test_one_refusal_closes_it_for_as_long_as_the_service_asked() -> None:
    gate = refused(OPEN, NOW, 7.0)
    assert enter(gate, NOW + 1)[1] == Entry(wait=6.0)
    probing(gate, NOW + 7)


def test_a_refusal_without_a_time_closes_it_shortly() -> None:
    assert enter(refused(OPEN, NOW, None), NOW)[1].wait == pytest.approx(SHORTEST_CLOSURE)


def test_refusals_of_requests_that_were_under_way_together_count_once() -> None:
    gate = refused(OPEN, NOW, 2.0)
    for _ in range(5):
        gate = refused(gate, NOW + 0.1, 2.0)
    assert (gate.closed_until, gate.closures) == (pytest.approx(NOW + 2), 1)


def test_they_change_nothing_unless_they_ask_for_clearly_longer() -> None:
    gate = refused(OPEN, NOW, 2.0, "first")
    assert refused(gate, NOW + 0.4, 2.0, "second") is gate
    longer = refused(gate, NOW + 0.4, 9.0, "third")
    assert (longer.closed_until, longer.cause, longer.closures) == (NOW + 9.4, "third", 1)


def test_an_answer_to_what_was_sent_before_it_closed_does_not_open_it() -> None:
    gate = refused(OPEN, NOW, 2.0)
    assert worked(gate, NOW + 0.1, probe=False) == gate


def test_after_the_clock_was_set_back_a_closure_and_a_probe_are_over_and_faults_still_count() -> None:
    closed, before = refused(OPEN, NOW, 5.0), NOW - 3600
    assert closed.state(before) == "half-open"
    probing(probing(closed, NOW + 5), before)
    gate = faulted(OPEN, NOW, probe=False)
    for second in range(FAULTS_TO_CLOSE):
        gate = faulted(gate, before + second, probe=False, span=2.0)
    assert not gate.lets_pass


def test_one_that_is_closed_for_longer_meanwhile_stays_so_to_its_end() -> None:
    gate = refused(refused(OPEN, NOW, 2.0), NOW + 1, 30.0)
    assert enter(gate, NOW + 1)[1] == Entry(wait=30.0)


def test_closures_grow_while_probes_are_refused_up_to_a_bound() -> None:
    gate, now, waits = OPEN, NOW, []
    for _ in range(8):
        gate = refused(gate, now, 1.0)
        waits.append(gate.closed_until - now)
        now = gate.closed_until
        gate = probing(gate, now)
    assert waits[:4] == pytest.approx([1, 1.5, 2.25, 3.375])
    assert waits[4:] == pytest.approx([MOST_GROWTH] * 4)


def test_a_refusal_soon_after_it_opened_counts_as_one_more() -> None:
    gate = worked(probing(refused(OPEN, NOW, 4.0), NOW + 4), NOW + 4, probe=True)
    assert refused(gate, NOW + 5, 4.0).closed_for == pytest.approx(6)


def test_a_refusal_after_a_good_time_starts_anew() -> None:
    gate = worked(probing(refused(OPEN, NOW, 4.0), NOW + 4), NOW + 4, probe=True)
    assert refused(gate, NOW + 9, 4.0).closed_for == pytest.approx(4)


@pytest.mark.parametrize("asked", [None, 1.0, 50.0])
def test_no_closure_exceeds_the_longest_unless_the_service_asks_for_it(asked: float | None) -> None:
    gate = OPEN
    for _ in range(2000):
        gate = refused(gate, gate.closed_until or NOW, asked)
    assert gate.closed_for <= LONGEST_CLOSURE
    assert refused(gate, gate.closed_until, 300.0).closed_for == 300.0


def test_a_single_fault_closes_nothing() -> None:
    gate = OPEN
    for _ in range(20):
        gate = worked(faulted(gate, NOW, probe=False), NOW, probe=False)
        assert gate.is_open(NOW)


def test_faults_in_a_row_are_an_outage_and_close_it() -> None:
    gate = OPEN
    for _ in range(FAULTS_TO_CLOSE):
        assert gate.is_open(NOW)
        gate = faulted(gate, NOW, probe=False)
    assert not gate.is_open(NOW)
    assert gate.closed_until > NOW


def test_a_failed_probe_closes_it_again_and_longer_each_time() -> None:
    gate, waits, now = refused(OPEN, NOW, 1.0), [], NOW + 1
    for _ in range(3):
        gate = faulted(probing(gate, now), now, probe=True)
        waits.append(gate.closed_until - now)
        now = gate.closed_until
    assert waits == sorted(set(waits))


@pytest.mark.parametrize("gate", [Gate(), replace(OPEN, proven_at=NOW - STALE_AFTER)], ids=["new", "long silent"])
def test_a_failed_probe_of_a_gate_that_nothing_is_known_against_is_one_fault_and_the_next_one_probes(
    gate: Gate,
) -> None:
    for faults in range(1, FAULTS_TO_CLOSE):
        gate = faulted(probing(gate, NOW), NOW, probe=True)
        assert (gate.lets_pass, gate.faults) == (True, faults)
    assert not faulted(probing(gate, NOW), NOW, probe=True).lets_pass


def test_a_late_fault_of_a_closed_gate_changes_nothing() -> None:
    gate = replace(refused(OPEN, NOW, 2.0))
    assert faulted(gate, NOW + 1, probe=False) == gate


def test_every_closure_is_counted_so_that_all_workers_hear_of_it() -> None:
    gate = worked(probing(refused(OPEN, NOW, 1.0), NOW + 1), NOW + 1, probe=True)
    assert enter(gate, NOW + 1)[1] == Entry(closures=1)
