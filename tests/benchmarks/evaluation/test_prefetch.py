"""Prefetching keeps the order, bounds memory, and passes on errors; the stopwatch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.evaluation.prefetch import Prefetcher, Stopwatch


def no_bytes(_: object) -> int:
    return 0


@pytest.fixture(params=[0, 1, 3])
def prefetcher(request: pytest.FixtureRequest) -> Iterator[Prefetcher]:
    found = Prefetcher(request.param)
    yield found
    found.close()


def test_results_are_in_the_order_of_the_items(prefetcher: Prefetcher) -> None:
    def slow(item: int) -> int:
        time.sleep(0.003 * (item % 3))
        return item * item

    assert list(prefetcher.map(slow, range(20), no_bytes)) == [each**2 for each in range(20)]


def test_an_error_is_raised_at_the_place_of_its_result(prefetcher: Prefetcher) -> None:
    def odd(item: int) -> int:
        if item == 5:
            raise RuntimeError("five")
        return item

    results = prefetcher.map(odd, range(9), no_bytes)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="five"):
        next(results)


def test_items_are_taken_when_there_is_room() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for each in range(100):
            taken.append(each)
            yield each

    prefetcher = Prefetcher(2)
    results = prefetcher.map(lambda item: item, items(), no_bytes)
    assert next(results) == 0
    assert len(taken) <= 4
    results.close()
    prefetcher.close()


def test_waiting_results_stay_below_the_budget() -> None:
    prefetcher = Prefetcher(2, budget_bytes=2500)
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

    for _ in prefetcher.map(make, range(30), size):
        time.sleep(0.005)  # a slow consumer
        with lock:
            alive -= 1
    prefetcher.close()
    # Two that fill the budget, one that exceeds it, and one for each thread.
    assert peak <= 5


def test_work_overlaps() -> None:
    prefetcher = Prefetcher(2)
    meet = threading.Barrier(2, timeout=20)
    # Each of two items waits for the other: one after the other, they would wait for ever.
    assert list(prefetcher.map(lambda item: item + 0 * meet.wait(), [1, 2], no_bytes)) == [1, 2]
    prefetcher.close()


def test_closing_waits_for_running_calls_and_drops_the_others() -> None:
    begun, may_end = threading.Event(), threading.Event()
    ended: list[int] = []

    def slow(item: int) -> int:
        if item:
            begun.set()
            may_end.wait(10)
        ended.append(item)
        return item

    prefetcher = Prefetcher(1)
    results = prefetcher.map(slow, range(3), no_bytes)
    assert next(results) == 0
    assert begun.wait(10)
    threading.Timer(0.05, may_end.set).start()
    results.close()
    assert ended == [0, 1]
    time.sleep(0.02)
    assert ended == [0, 1]
    prefetcher.close()


def test_the_stopwatch_charges_what_is_nested_to_the_inner_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = Stopwatch()
    now += 1
    with clock("data"):
        now += 2
        with clock("model"):
            now += 10
        now += 3
    with clock("scoring"):
        now += 4
    found = clock.row("m", "d")
    assert (found.data_s, found.model_s, found.scoring_s, found.wall_s) == (5, 10, 4, 20)
    assert found.overhead == pytest.approx(0.5)


def test_a_failure_inside_a_stage_leaves_the_stopwatch_in_order() -> None:
    clock = Stopwatch()
    with pytest.raises(ValueError, match="x"), clock("model"):
        raise ValueError("x")
    with clock("data"):
        pass
    assert clock.row("m", "d").writing_s == 0


def test_the_stopwatch_ignores_other_threads() -> None:
    clock = Stopwatch()

    def wait() -> None:
        with clock("data"):
            time.sleep(0.01)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert clock.row("m", "d").data_s == 0
