from __future__ import annotations

import timeit
from itertools import pairwise

import numpy as np
import pytest
from guard_settings import CALM
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.records.statistics import (
    Spread,
    clustered_mean,
    cut,
    median_spread,
    ratio_in_turns,
    ratio_of_runs,
    spread_fields,
    summarise_times,
)


def test_a_summary_of_times() -> None:
    summary = summarise_times([[1.0, 2.0, 3.0], [4.0, 5.0]])
    assert (summary.n, summary.processes) == (5, 2)
    assert (summary.median_ms, summary.mean_ms, summary.min_ms) == (3.0, 3.0, 1.0)
    assert summary.p95_ms is None
    assert summary.ci95_ms is None
    assert summary.range_ms == (2.0, 4.5)  # of the medians of the processes


@pytest.mark.parametrize(
    ("n", "p95", "p99"), [(99, False, False), (100, True, False), (500, True, True)]
)
def test_percentiles_only_where_the_samples_carry_them(n: int, p95: bool, p99: bool) -> None:
    summary = summarise_times([np.arange(n, dtype=float).tolist()])
    assert ((summary.p95_ms is not None), (summary.p99_ms is not None)) == (p95, p99)


@pytest.mark.parametrize(
    ("samples", "spread"),
    [
        ([], None),
        ([[], []], None),
        ([[3.0]], None),
        ([[3.0, 1.0, 2.0]], Spread((1.0, 3.0), is_range=True)),
        ([[3.0, 1.0], []], Spread((1.0, 3.0), is_range=True)),
        ([[1.0, 2.0, 9.0], [4.0]], Spread((2.0, 4.0), is_range=True)),
        ([[1.0]] * 4, Spread((1.0, 1.0), is_range=True)),
        ([[1.0]] * 5, Spread((1.0, 1.0), is_range=False)),
    ],
)
def test_fewer_than_five_processes_give_a_range(
    samples: list[list[float]], spread: Spread | None
) -> None:
    assert median_spread(samples) == spread


def test_five_processes_give_students_interval_of_their_medians() -> None:
    medians = np.array([10.0, 11.0, 10.5, 9.5, 10.2])
    found = median_spread([[0.9 * each, each, 1.3 * each] for each in medians])
    assert found is not None
    assert not found.is_range
    result = stats.ttest_1samp(np.log(medians), 0).confidence_interval(0.95)
    assert found.bounds == pytest.approx((np.exp(result.low), np.exp(result.high)))


def test_the_median_of_all_calls_is_within_its_interval() -> None:
    """One process of very many calls draws the median of all towards its own."""
    summary = summarise_times([[2.0] * 100, *([1.0 + number / 1e4] for number in range(50))])
    assert summary.median_ms == 2.0
    assert summary.ci95_ms is not None
    assert summary.ci95_ms[0] < summary.ci95_ms[1] == 2.0


def test_times_of_nothing_give_a_range() -> None:
    """A clock that does not see a call says zero, which has no logarithm."""
    assert median_spread([[0.0]] * 6) == Spread((0.0, 0.0), is_range=True)


def test_ratios_of_few_processes_have_a_range_and_of_five_an_interval() -> None:
    ratios = [[2.0, 2.2], [2.4, 2.6], [1.9, 2.1], [2.2, 2.3]]
    few = spread_fields(median_spread(ratios))
    assert few["ci95"] is None
    assert few["range"] == pytest.approx((2.0, 2.5))
    five = spread_fields(median_spread([*ratios, [2.0, 2.4]]))
    assert five["range"] is None
    assert five["ci95"] is not None
    assert five["ci95"][0] < 2.2 < five["ci95"][1]
    assert spread_fields(None) == {"ci95": None, "range": None}


def scene(rng: np.random.Generator, n_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Instances whose errors share a part that belongs to their image."""
    counts = rng.integers(1, 15, n_images)
    clusters = np.repeat(np.arange(n_images), counts)
    return 0.7 + rng.normal(0, 0.1, n_images)[clusters] + rng.normal(
        0, 0.1, len(clusters)
    ), clusters


def test_no_interval_from_two_images() -> None:
    assert clustered_mean(np.array([0.1, 0.5]), np.array([1, 2])).ci95 is None


@pytest.mark.parametrize("value", [0.5, 0.3, 0.1, 1.0])
def test_equal_values_have_an_interval_of_no_width(value: float) -> None:
    clusters = np.repeat(np.arange(7), 3)
    assert clustered_mean(np.full(21, value), clusters).ci95 == (value, value)


def test_images_that_agree_exactly_have_an_interval_of_no_width() -> None:
    values, clusters = np.tile([0.1, 0.4, 0.7], 9), np.repeat(np.arange(9), 3)
    interval = clustered_mean(values, clusters).ci95
    assert interval == pytest.approx((0.4, 0.4))


def test_bounds_cut_an_interval_and_nothing_else() -> None:
    values, clusters = np.array([1.0, 0.99, 0.9, 1.0, 0.95, 0.97, 0.7]), np.arange(7)
    free = clustered_mean(values, clusters).ci95
    assert free is not None
    assert free[1] > 1
    assert cut(free, (0, 1)) == (free[0], 1)
    assert cut(free, (-9, 9)) == cut(free, None) == free
    assert cut(None, (0, 1)) is None


def test_the_interval_is_symmetric_and_of_the_size_that_theory_gives() -> None:
    """Many images of one instance each: the textbook interval of a mean."""
    values = np.random.default_rng(4).normal(0.5, 0.1, 5000)
    result = clustered_mean(values, np.arange(5000))
    assert result.ci95 is not None
    low, high = result.ci95
    assert (low + high) / 2 == pytest.approx(result.mean)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.1 / 5000**0.5, rel=0.06)


def test_every_instance_counts_once() -> None:
    """The mean is over instances, not over images."""
    assert clustered_mean(np.array([1.0, 0.0, 0.0, 0.5]), np.array([3, 1, 1, 2])).mean == 0.375


def test_p_is_at_most_5_percent_exactly_where_the_interval_leaves_zero_out() -> None:
    values, clusters = scene(np.random.default_rng(8), 60)
    found = []
    for effect in np.linspace(-0.06, 0.06, 121):
        result = clustered_mean(values - 0.7 + effect, clusters)
        assert result.ci95 is not None
        found.append(not result.ci95[0] <= 0 <= result.ci95[1])
        assert (result.p_value <= 0.05) == found[-1]
    assert {True, False} == set(found)


def test_p_falls_steadily_far_beyond_what_can_be_counted() -> None:
    values, clusters = scene(np.random.default_rng(3), 100)
    centred = values - values.mean()
    p = [clustered_mean(centred + effect, clusters).p_value for effect in np.linspace(0, 0.2, 81)]
    assert p[0] > 0.9
    assert all(a >= b for a, b in pairwise(p))
    assert p[-1] < 1e-12
    # No jump where counting ends, and more than one value beyond.
    assert all(a < 4 * b for a, b in pairwise(x for x in p if 0.001 < x < 0.03))
    assert sum(1e-6 < x < 0.009 for x in p) > 3


def test_zero_differences_are_no_evidence_and_few_images_little() -> None:
    assert clustered_mean(np.zeros(9), np.arange(9)).p_value == 1
    assert clustered_mean(np.full(9, 0.1), np.arange(9)).p_value == 2**-8
    assert clustered_mean(np.array([0.3, 0.31, 0.3]), np.arange(3)).p_value >= 0.25
    assert clustered_mean(np.array([0.3, 0.3]), np.arange(2)).p_value == 1


def test_ten_thousand_images_take_less_than_a_second() -> None:
    values, clusters = scene(np.random.default_rng(0), 10_000)
    clustered_mean(values[:50], clusters[:50])  # imports
    best = min(timeit.repeat(lambda: clustered_mean(values, clusters), number=1, repeat=3))
    assert best < 1.0


@given(seed=st.integers(0, 1000), n=st.integers(3, 12))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_the_interval_holds_the_mean_and_does_not_depend_on_names_of_images(
    seed: int, n: int
) -> None:
    rng = np.random.default_rng(seed)
    values, clusters = scene(rng, n)
    interval = clustered_mean(values, clusters).ci95
    renamed = clustered_mean(values, clusters * 1000 + 7).ci95
    assert interval == renamed
    assert interval is not None
    assert interval[0] <= values.mean() <= interval[1]


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
