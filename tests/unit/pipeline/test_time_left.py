from __future__ import annotations

import math
import threading

import pytest

from pipeline.time_left import time_left, within


def test_where_nobody_set_a_limit_there_is_all_the_time() -> None:
    assert time_left() == math.inf


def test_the_narrower_limit_counts_until_it_is_left() -> None:
    with within(10):
        with within(1):
            assert time_left() == pytest.approx(1, abs=0.5)
            with within(60):
                assert time_left() == pytest.approx(1, abs=0.5)
        assert time_left() == pytest.approx(10, abs=0.5)
    assert time_left() == math.inf


def test_a_time_that_is_over_is_negative() -> None:
    with within(-2):
        assert time_left() == pytest.approx(-2, abs=0.5)


def test_another_thread_has_no_part_in_it() -> None:
    seen = list[float]()
    with within(1):
        thread = threading.Thread(target=lambda: seen.append(time_left()))
        thread.start()
        thread.join()
    assert seen == [math.inf]
