from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.statistics import clustered_mean_interval, median_interval, summarise_times


def test_a_summary_of_times() -> None:
    summary = summarise_times([[1.0, 2.0, 3.0], [4.0, 5.0]])
    assert (summary.n, summary.processes) == (5, 2)
    assert (summary.median_ms, summary.mean_ms, summary.min_ms) == (3.0, 3.0, 1.0)
    assert summary.p95_ms is None
    assert summary.ci95_ms is not None
    low, high = summary.ci95_ms
    assert 1.0 <= low <= 3.0 <= high <= 5.0


@pytest.mark.parametrize(
    ("n", "p95", "p99"), [(99, False, False), (100, True, False), (500, True, True)]
)
def test_percentiles_only_where_the_samples_carry_them(n: int, p95: bool, p99: bool) -> None:
    summary = summarise_times([np.arange(n, dtype=float).tolist()])
    assert ((summary.p95_ms is not None), (summary.p99_ms is not None)) == (p95, p99)


def test_no_interval_from_two_samples() -> None:
    assert summarise_times([[1.0], [2.0]]).ci95_ms is None


def test_processes_that_differ_widen_the_interval() -> None:
    """Calls of one process agree; it is the processes that say how certain the median is."""
    rng = np.random.default_rng(0)
    groups = [centre + rng.normal(0, 0.01, 50) for centre in (1.0, 1.5, 2.0)]
    split = median_interval(groups)
    pooled = median_interval([np.concatenate(groups)])
    assert split is not None
    assert pooled is not None
    assert split[1] - split[0] > 0.8
    assert split[1] - split[0] > pooled[1] - pooled[0]


def scene(rng: np.random.Generator, n_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Instances whose errors share a part that belongs to their image."""
    counts = rng.integers(1, 15, n_images)
    clusters = np.repeat(np.arange(n_images), counts)
    return 0.7 + rng.normal(0, 0.1, n_images)[clusters] + rng.normal(
        0, 0.1, len(clusters)
    ), clusters


def test_the_interval_of_a_mean_covers_it_and_the_naive_one_does_not() -> None:
    rng = np.random.default_rng(1)
    hits = naive_hits = 0
    trials = 150
    for seed in range(trials):
        values, clusters = scene(rng, 60)
        interval = clustered_mean_interval(values, clusters, seed)
        assert interval is not None
        hits += interval[0] <= 0.7 <= interval[1]
        half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
        naive_hits += abs(values.mean() - 0.7) <= half
    assert 0.89 <= hits / trials <= 0.99
    assert naive_hits / trials < 0.85


def test_no_interval_from_two_images() -> None:
    assert clustered_mean_interval(np.array([0.1, 0.5]), np.array([1, 2])) is None


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert clustered_mean_interval(np.full(5, 0.5), np.arange(5)) == (0.5, 0.5)


@given(seed=st.integers(0, 1000), n=st.integers(3, 12))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_the_interval_holds_the_mean_and_does_not_depend_on_names_of_images(
    seed: int, n: int
) -> None:
    rng = np.random.default_rng(seed)
    values, clusters = scene(rng, n)
    interval = clustered_mean_interval(values, clusters)
    renamed = clustered_mean_interval(values, clusters * 1000 + 7)
    assert interval == renamed
    assert interval is not None
    assert interval[0] <= values.mean() <= interval[1]
