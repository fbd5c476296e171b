"""Settings of the process that several threads change at once are restored, and not mixed."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch

from mobilesam.process_state import ignored_warnings, logger_level, seeded

LOGGER = "mobilesam.tests.process_state"


def _overlap(first: AbstractContextManager[None], second: AbstractContextManager[None]) -> None:
    """Enters the first block, and leaves it while a thread is still in the second."""
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with second:
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with first:
        thread.start()
        assert inside.wait(10)
    leave.set()
    thread.join()


def test_the_last_of_two_threads_restores_the_level_of_a_logger() -> None:
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    _overlap(logger_level(LOGGER, logging.ERROR), logger_level(LOGGER, logging.CRITICAL))
    assert logger.level == logging.INFO


@pytest.mark.parametrize("inner", [logging.DEBUG, logging.ERROR, logging.INFO])
def test_levels_may_be_nested(inner: int) -> None:
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    with logger_level(LOGGER, logging.ERROR):
        with logger_level(LOGGER, inner):
            assert logger.level == inner
        assert logger.level == logging.ERROR
    assert logger.level == logging.INFO


def test_the_last_of_two_threads_restores_the_warning_filters() -> None:
    before = list(warnings.filters)
    _overlap(ignored_warnings(), ignored_warnings())
    assert list(warnings.filters) == before


def test_warnings_are_ignored_in_the_block_alone() -> None:
    with ignored_warnings(), ignored_warnings():
        warnings.warn("nothing to see", UserWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="seen"):
        warnings.warn("seen", UserWarning, stacklevel=1)


def _draws(seed: int, pause: Callable[[], object]) -> list[float]:
    with seeded(seed):
        first = torch.rand(1).item()
        pause()
        return [first, torch.rand(1).item()]


def test_threads_that_draw_at_once_draw_what_one_draws() -> None:
    before = torch.random.get_rng_state()
    expected = {seed: _draws(seed, lambda: None) for seed in (1, 2)}
    # Neither reaches the barrier while the other holds the generator.
    barrier = threading.Barrier(2)

    def pause() -> None:
        try:
            barrier.wait(0.1)
        except threading.BrokenBarrierError:
            return

    found: dict[int, list[float]] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: _draws(seed, pause)}))
        for seed in (1, 2)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == expected
    assert torch.equal(torch.random.get_rng_state(), before)


def test_seeds_may_be_nested() -> None:
    with seeded(1):
        outer = torch.rand(1)
        with seeded(2):
            inner = torch.rand(1)
        after = torch.rand(1)
    with seeded(1):
        assert torch.equal(torch.cat([outer, after]), torch.cat([torch.rand(1), torch.rand(1)]))
    with seeded(2):
        assert torch.equal(torch.rand(1), inner)
