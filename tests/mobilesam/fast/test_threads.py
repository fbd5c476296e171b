"""Work is shared between threads, in order, with single-threaded operations."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from mobilesam.fast import threads


@pytest.fixture(autouse=True)
def _three_threads(set_threads: Callable[[int], None]) -> None:
    set_threads(3)


def test_results_are_in_order_and_operations_single_threaded() -> None:
    seen: list[tuple[int, bool]] = []

    def work(item: int) -> int:
        seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
        return item**2

    assert threads.spread(work, range(50)) == [item**2 for item in range(50)]
    assert set(seen) == {(1, True)}
    assert torch.get_num_threads() == 3
    assert threads.spread(work, []) == []


def test_items_run_at_the_same_time() -> None:
    meet = threading.Barrier(3)
    assert sorted(threads.spread(lambda _: meet.wait(timeout=20), range(3))) == [0, 1, 2]


def test_work_can_be_spread_again_without_waiting_for_itself() -> None:
    def outer(spread: threads.Spread) -> list[list[int]]:
        return spread(lambda row: spread(lambda column: 10 * row + column, range(9)), range(9))

    expected = [[10 * row + column for column in range(9)] for row in range(9)]
    assert threads.run(outer) == expected
    assert threads.spread(lambda _: threads.run(outer), range(4)) == [expected] * 4


def test_an_error_stops_the_rest_and_is_raised() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 5:
            raise ValueError("item 5")
        done.append(item)

    with pytest.raises(ValueError, match="item 5"):
        threads.spread(work, range(10_000))
    assert len(done) < 10_000
    assert threads.spread(len, ["ab"]) == [2]


def test_one_thread_calls_directly() -> None:
    torch.set_num_threads(1)
    names = threads.spread(lambda _: threading.current_thread().name, range(2))
    assert names == [threading.current_thread().name] * 2


def test_new_threads_keep_the_number_of_threads() -> None:
    threads.spread(len, ["a", "b"])
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [3]
