"""Models shared by eight threads, a few seeds each; `nox -s fuzz` goes on with ever new ones."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from .threads import CASES, Case, wrong_answers


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_threads_answer_as_one_thread_bit_for_bit(case: Case) -> None:
    jobs = case.jobs(np.random.default_rng(0))
    assert wrong_answers(jobs) == []


def test_a_buffer_that_threads_share_is_noticed() -> None:
    shared = np.zeros(3)

    def job(value: int) -> Any:
        shared[:] = value
        time.sleep(1e-3)
        return shared

    jobs = [lambda value=value: job(value) for value in range(4)]
    assert wrong_answers(jobs)
