from __future__ import annotations

import numpy as np
import pytest
from guard_settings import CALM
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.records.statistics import ratio_in_turns, ratio_of_runs

TIMES = st.lists(st.floats(0.1, 1e3), min_size=1, max_size=5)


@settings(CALM, max_examples=15)
@given(st.lists(TIMES, min_size=3, max_size=4), st.floats(0.2, 5))
def test_a_constant_factor_is_found_exactly(old: list[list[float]], factor: float) -> None:
    new = [[factor * value for value in turns] for turns in old]
    found = ratio_in_turns(old, new)
    assert found.value == pytest.approx(factor)
    assert found.ci95 == pytest.approx((factor, factor))


def test_drift_that_hits_both_sides_is_no_change() -> None:
    rng = np.random.default_rng(0)
    drift = rng.lognormal(0, 0.5, (5, 12))  # the machine is up to three times as slow at times
    found = ratio_in_turns(drift, 1.3 * drift * rng.lognormal(0, 0.01, (5, 12)))
    assert found.ci95 is not None
    assert 1.25 < found.ci95[0] < found.value < found.ci95[1] < 1.35


def test_the_interval_covers_no_change_between_equal_sides() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(60):
        pairs = rng.lognormal(0, 0.03, (2, 5, 1))
        old, new = pairs * rng.lognormal(0, 0.05, (2, 5, 12))
        found = ratio_in_turns(old, new, seed)
        assert found.ci95 is not None
        covered += found.ci95[0] <= 1 <= found.ci95[1]
    assert covered >= 54


def test_few_pairs_give_no_interval_and_different_turns_no_ratio() -> None:
    assert ratio_in_turns([[1.0], [1.0]], [[2.0], [2.0]]).ci95 is None
    with pytest.raises(ValueError, match="same turns"):
        ratio_in_turns([[1.0]], [[1.0, 2.0]])
    with pytest.raises(ValueError, match="at least one"):
        ratio_in_turns([], [])


def test_runs_apart_are_drawn_apart() -> None:
    rng = np.random.default_rng(2)
    old, new = rng.lognormal(0, 0.05, (2, 3, 20))
    same = ratio_of_runs(old, new)
    slow = ratio_of_runs(old, 1.5 * new)
    assert same.ci95 is not None and slow.ci95 is not None  # noqa: PT018
    assert same.ci95[0] < 1 < same.ci95[1]
    assert 1.3 < slow.ci95[0] < slow.ci95[1] < 1.7
    assert slow.value == pytest.approx(1.5 * same.value)
    # Welch's t of the medians of the processes.
    medians = [np.log(np.median(side, axis=1)) for side in (new, old)]
    result = stats.ttest_ind(*medians, equal_var=False).confidence_interval(0.95)
    assert same.ci95 == pytest.approx((np.exp(result.low), np.exp(result.high)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([[1.0, 2.0, 1.5]], [[3.0, 3.1, 3.2]]),
        ([[1.0] * 9], [[3.0], [3.1], [3.2]]),
        ([[3.0], [3.1], [3.2]], [[1.0] * 9]),
        ([[1.0], []], [[3.0], [3.1]]),
    ],
)
def test_one_process_on_either_side_gives_no_interval(
    old: list[list[float]], new: list[list[float]]
) -> None:
    assert ratio_of_runs(old, new).ci95 is None


def test_runs_without_any_noise_have_an_interval_of_no_width() -> None:
    found = ratio_of_runs([[2.0], [2.0]], [[3.0], [3.0], [3.0]])
    assert found.ci95 == pytest.approx((1.5, 1.5))
