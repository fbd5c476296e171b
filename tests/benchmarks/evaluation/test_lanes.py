"""Lanes: order kept, work bounded, errors and early ends passed on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.evaluation.prefetch import Lanes


def no_weight(_: object) -> int:
    return 0


@pytest.fixture(params=[0, 1, 3])
def lanes(request: pytest.FixtureRequest) -> Iterator[Lanes]:
    found = Lanes(request.param)
    yield found
    found.close()


def test_results_come_in_the_order_of_the_items(lanes: Lanes) -> None:
    def slow(item: int) -> int:
        time.sleep(0.003 * (item % 3))
        return item * item

    assert list(lanes.map(slow, range(20), no_weight)) == [each**2 for each in range(20)]


def test_an_error_comes_where_its_result_would(lanes: Lanes) -> None:
    def odd(item: int) -> int:
        if item == 5:
            raise RuntimeError("five")
        return item

    results = lanes.map(odd, range(9), no_weight)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="five"):
        next(results)


def test_no_more_items_are_taken_than_there_is_room_for() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for each in range(100):
            taken.append(each)
            yield each

    lanes = Lanes(2)
    results = lanes.map(lambda item: item, items(), no_weight)
    assert next(results) == 0
    assert len(taken) <= 4
    results.close()
    lanes.close()


def test_what_lies_between_two_stages_stays_below_the_budget() -> None:
    lanes = Lanes(2, budget_bytes=2500)
    alive = peak = 0
    lock = threading.Lock()

    def make(item: int) -> np.ndarray:
        nonlocal alive, peak
        with lock:
            alive += 1
            peak = max(peak, alive)
        return np.zeros(1000, np.uint8)

    def size(item: object) -> int:
        return item.nbytes if isinstance(item, np.ndarray) else 0

    for _ in lanes.map(make, range(30), size):
        time.sleep(0.005)  # a slow consumer
        with lock:
            alive -= 1
    lanes.close()
    # Two that fill the budget, one that overflows it and one for each thread that was at work.
    assert peak <= 5


def test_work_overlaps() -> None:
    lanes = Lanes(2)
    meet = threading.Barrier(2, timeout=20)
    # Each of two items waits for the other: one after the other, they would wait for ever.
    assert list(lanes.map(lambda item: item + 0 * meet.wait(), [1, 2], no_weight)) == [1, 2]
    lanes.close()


def test_closing_waits_for_what_runs_and_drops_the_rest() -> None:
    begun, may_end = threading.Event(), threading.Event()
    ended: list[int] = []

    def slow(item: int) -> int:
        if item:
            begun.set()
            may_end.wait(10)
        ended.append(item)
        return item

    lanes = Lanes(1)
    results = lanes.map(slow, range(3), no_weight)
    assert next(results) == 0
    assert begun.wait(10)
    threading.Timer(0.05, may_end.set).start()
    results.close()
    assert ended == [0, 1]
    time.sleep(0.02)
    assert ended == [0, 1]
    lanes.close()
