"""Summaries with honest intervals: two-level for times, clustered by image for accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

CONFIDENCE = 0.95
N_RESAMPLES = 2000
MIN_SAMPLES_FOR_INTERVAL = 3
# A percentile from fewer samples would be one of the largest values under another name.
MIN_SAMPLES_P95 = 100
MIN_SAMPLES_P99 = 500


@dataclass(frozen=True, slots=True)
class TimeSummary:
    """Summary of call times; all but `n` and `processes` in milliseconds."""

    n: int
    processes: int
    median_ms: float
    ci95_ms: tuple[float, float] | None
    mean_ms: float
    min_ms: float
    p95_ms: float | None
    p99_ms: float | None


def summarise_times(samples_ms: Sequence[Sequence[float]], seed: int = 0) -> TimeSummary:
    """Summarises the samples of one phase, one sequence a process.

    Args:
        samples_ms: Milliseconds of each call; at least one call in all.
        seed: Of the bootstrap.
    """
    groups = [np.asarray(group, np.float64) for group in samples_ms if len(group)]
    values = np.concatenate(groups)
    return TimeSummary(
        n=len(values),
        processes=len(groups),
        median_ms=float(np.median(values)),
        ci95_ms=median_interval(groups, seed),
        mean_ms=float(values.mean()),
        min_ms=float(values.min()),
        p95_ms=float(np.percentile(values, 95)) if len(values) >= MIN_SAMPLES_P95 else None,
        p99_ms=float(np.percentile(values, 99)) if len(values) >= MIN_SAMPLES_P99 else None,
    )


def median_interval(groups: Sequence[Float64Array], seed: int = 0) -> tuple[float, float] | None:
    """95 % bootstrap interval of the median over processes and over calls within them.

    Calls of one process share its memory layout and its neighbours on the machine, so processes
    are drawn first, then calls within each (two levels). None below three samples.
    """
    if sum(map(len, groups)) < MIN_SAMPLES_FOR_INTERVAL:
        return None
    rng = np.random.default_rng(seed)
    medians = np.empty(N_RESAMPLES)
    for row in range(N_RESAMPLES):
        chosen = rng.integers(len(groups), size=len(groups))
        drawn = [groups[g][rng.integers(len(groups[g]), size=len(groups[g]))] for g in chosen]
        medians[row] = np.median(np.concatenate(drawn))
    return _interval(medians)


def clustered_mean_interval(
    values: Float64Array, clusters: npt.NDArray[np.int64], seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of a mean over instances whose errors are correlated within an image.

    Whole images are drawn with replacement; the mean is that over the instances drawn.

    Args:
        values: (N,) one value an instance.
        clusters: (N,) the instance's image.
        seed: Of the bootstrap.

    Returns:
        Lower and upper limit; None with fewer than three images.
    """
    from scipy import stats

    _, index = np.unique(clusters, return_inverse=True)
    sums = np.bincount(index, weights=values)
    counts = np.bincount(index).astype(np.float64)
    if len(counts) < MIN_SAMPLES_FOR_INTERVAL:
        return None
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])

    def mean(total: Float64Array, count: Float64Array, axis: int = -1) -> Float64Array:
        return np.asarray(total.sum(axis=axis) / count.sum(axis=axis))

    result = stats.bootstrap(
        (sums, counts),
        mean,
        n_resamples=N_RESAMPLES,
        batch=200,
        vectorized=True,
        paired=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _interval(values: Float64Array) -> tuple[float, float]:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
