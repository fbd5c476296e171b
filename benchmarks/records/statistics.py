"""Medians, means and ratios with intervals: over processes for times, over images for accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
Interval = tuple[float, float]
Samples = Sequence[Sequence[float] | Float64Array]
"""One sequence of positive values per process; empty ones are ignored."""

CONFIDENCE = 0.95
N_RESAMPLES = 2000
N_RESAMPLES_T = 1999
"""One less than a multiple of 100, so that a whole number of draws lies beyond each limit."""
COUNTED_P = 0.01
"""Smaller p-values would be counted from fewer than 20 draws."""
BATCH_VALUES = 2**15
"""Values drawn at once, which stay in the cache of the processor."""
ROUNDING = 1e-12
"""Differences below this share of the values are rounding errors."""
MIN_SAMPLES_FOR_INTERVAL = 3
MIN_PROCESSES = 5
"""Minimum for an interval of a time; fewer processes hardly show how much processes differ."""
MIN_PROCESSES_OF_RATIO = 2
"""Minimum on each side of a ratio of two runs."""
MIN_SAMPLES_P95, MIN_SAMPLES_P99 = 100, 500
"""Minimum for a percentile; with fewer samples it would be one of the largest values."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Interval or range around a median of times, or of ratios of times.

    Attributes:
        bounds: Lower and upper limit, in the unit of the values.
        is_range: Whether the bounds are the smallest and the largest value, which have no stated
            coverage, instead of a 95 % interval.
    """

    bounds: Interval
    is_range: bool


@dataclass(frozen=True, slots=True)
class TimeSummary:
    """Summary of call times; `range_ms` is set if there are too few processes for `ci95_ms`."""

    n: int
    processes: int
    median_ms: float
    ci95_ms: Interval | None
    range_ms: Interval | None
    mean_ms: float
    min_ms: float
    p95_ms: float | None
    p99_ms: float | None


def summarise_times(samples_ms: Samples) -> TimeSummary:
    """Summarises the times of one phase, in milliseconds; at least one call."""
    groups = _nonempty(samples_ms)
    values = np.concatenate(groups)
    ends = spread_fields(median_spread(groups))
    return TimeSummary(
        n=len(values),
        processes=len(groups),
        median_ms=float(np.median(values)),
        ci95_ms=ends["ci95"],
        range_ms=ends["range"],
        mean_ms=float(values.mean()),
        min_ms=float(values.min()),
        p95_ms=float(np.percentile(values, 95)) if len(values) >= MIN_SAMPLES_P95 else None,
        p99_ms=float(np.percentile(values, 99)) if len(values) >= MIN_SAMPLES_P99 else None,
    )


def _nonempty(samples: Samples) -> list[Float64Array]:
    return [np.asarray(group, np.float64) for group in samples if len(group)]


def median_spread(samples: Samples) -> Spread | None:
    """95 % interval of the median time for five or more processes, otherwise a range.

    Calls of one process share its memory layout and the load of the machine, so that only further
    processes show how much processes differ. The interval is Student's t on the logarithms of the
    medians of the processes, widened if the median of all calls lies outside. The range spans the
    medians of the processes; for a single process, its calls; None for a single call.

    Measured by simulation (`tests/benchmarks/records/test_statistics_simulation.py`; processes that
    differ by 5 %, calls by 3 %, some interrupted; 4,000 trials): coverage is 0.95 for 5 processes
    with 30 calls, 5 with 3 and 8 with 10; 0.93 for 5 with a single call. A bootstrap of processes
    and calls covers 0.18 to 0.49 with one process, 0.79 with 3 and 0.89 with 5.
    """
    groups = _nonempty(samples)
    medians = np.array([np.median(group) for group in groups])
    if len(groups) >= MIN_PROCESSES and (medians > 0).all():
        logs = np.log(medians)
        mean = float(logs.mean())
        half = float(_student_limit(len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs)))
        middle = float(np.median(np.concatenate(groups)))
        return Spread(_exp_around(mean - half, mean + half, middle), False)
    values = medians if len(groups) > 1 else np.concatenate(groups) if groups else medians
    if len(values) < 2:
        return None
    return Spread((float(values.min()), float(values.max())), True)


def _student_limit(dof: float) -> float:
    """Two-sided 95 % limit of Student's t."""
    from scipy import stats

    return float(stats.t.isf((1 - CONFIDENCE) / 2, dof))


def _exp_around(low: float, high: float, value: float) -> Interval:
    """Exponentials of two limits, widened to include a value."""
    return min(float(np.exp(low)), value), max(float(np.exp(high)), value)


def spread_fields(spread: Spread | None) -> dict[str, Interval | None]:
    """Fields `ci95` and `range` of a spread, for a document; at least one of them is None."""
    bounds = None if spread is None else spread.bounds
    is_range = spread is not None and spread.is_range
    return {"ci95": None if is_range else bounds, "range": bounds if is_range else None}


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ratio of two times, new over old, and its 95 % interval; None with too few samples."""

    value: float
    ci95: Interval | None


def ratio_of_runs(old: Samples, new: Samples) -> Ratio:
    """Ratio of the medians of two runs that were made one after the other, each of any size.

    The interval is Welch's t on the logarithms of the medians of the processes, since calls of one
    process do not show how much processes differ; there is none if either side has fewer than two
    processes. Changes of the machine between the runs are part of the ratio, but not covered by the
    interval.

    Measured by simulation (processes that differ by 5 %, calls by 3 %; 4,000 trials of two equal
    runs): coverage is 0.97 with 2 processes on each side, 0.96 with 3 or 5 on each side, and 0.95
    with 5 against 3.
    """
    sides = [_nonempty(old), _nonempty(new)]
    before, after = (float(np.median(np.concatenate(side))) for side in sides)
    value = after / before
    if min(map(len, sides)) < MIN_PROCESSES_OF_RATIO:
        return Ratio(value, None)
    first, second = (np.log([np.median(group) for group in side]) for side in sides)
    difference = float(second.mean() - first.mean())
    variances = np.array([side.var(ddof=1) / len(side) for side in (first, second)])
    half = 0.0
    if variances.any():
        freedoms = np.array([len(first) - 1, len(second) - 1])
        dof = variances.sum() ** 2 / (variances**2 / freedoms).sum()
        half = float(_student_limit(dof) * np.sqrt(variances.sum()))
    return Ratio(value, _exp_around(difference - half, difference + half, value))


def ratio_in_turns(
    old: Sequence[Sequence[float]], new: Sequence[Sequence[float]], seed: int = 0
) -> Ratio:
    """Ratio of the medians of two versions that were measured in turns, in pairs of processes.

    Each pair gives the ratio of the medians over its turns; the result is their geometric mean, so
    that a pair measured while the machine was slow has the same weight. The bootstrap draws pairs,
    then turns within each pair, the same for both sides, since the state of the machine during a
    turn affects both.

    With few pairs the spread between them is underestimated by sqrt((n - 1) / n), and the draws are
    widened accordingly. Measured by simulation (two equal sides, 500 trials each): 5 pairs that
    differ by 3 % with 12 turns that differ by 5 % are covered in 0.99 of trials, 8 pairs in 0.98,
    4 pairs that differ by 5 % with 10 turns in 0.93, 3 such pairs in 0.88. A verdict therefore
    needs a repetition (`regression.judge`).

    Args:
        old: Positive times, one sequence per pair of processes, one value per turn.
        new: Times of the other side in the same turns.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: The sides differ in their turns, or have none.
    """
    if [len(group) for group in old] != [len(group) for group in new] or not any(map(len, old)):
        raise ValueError("both sides need the same turns, at least one")
    pairs = list(zip(_nonempty(old), _nonempty(new), strict=True))
    center = float(np.mean([np.log(np.median(b) / np.median(a)) for a, b in pairs]))
    if len(pairs) < MIN_SAMPLES_FOR_INTERVAL:
        return Ratio(float(np.exp(center)), None)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(pairs), size=(N_RESAMPLES, len(pairs)))
    logs = np.empty(chosen.shape)
    for index, (a, b) in enumerate(pairs):
        where = chosen == index
        turns = rng.integers(len(a), size=(int(where.sum()), len(a)))
        logs[where] = np.log(np.median(b[turns], axis=1) / np.median(a[turns], axis=1))
    wide = center + (logs.mean(axis=1) - center) * np.sqrt(len(pairs) / (len(pairs) - 1))
    return Ratio(float(np.exp(center)), percentile_interval(np.exp(wide)))


def percentile_interval(values: Float64Array) -> Interval:
    """The central 95 % of draws."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class ClusteredMean:
    """Mean over instances whose values are correlated within an image.

    Attributes:
        n_clusters: Number of images.
        ci95: Lower and upper limit; None with fewer than three images.
        p_value: Two-sided p-value of the hypothesis that the mean is zero; 1 with fewer than three
            images.
    """

    mean: float
    n_clusters: int
    ci95: Interval | None
    p_value: float


def clustered_mean(
    values: Float64Array, clusters: npt.NDArray[np.int64], seed: int = 0
) -> ClusteredMean:
    """Mean, 95 % interval and test against zero, by the symmetric bootstrap-t over images.

    Whole images are drawn with replacement. Each draw gives |t*|, the distance of its mean from
    the mean of the sample in units of its own standard error (of a ratio of sums, by
    linearisation). The half width of the interval is the 95 % quantile of |t*| times the standard
    error of the sample (Hall, On symmetric bootstrap confidence intervals, J. R. Stat. Soc. B 50,
    1988). The p-value is the share of draws that lie further out than zero does, so that it is at
    most 0.05 if the interval excludes zero. Below 0.01 too few draws are left; there, Student's t
    is used, scaled to the 99th percentile of the draws. The p-value is at least 2^(1 - images), the
    probability that all images agree on the sign by chance.

    Measured by simulation (8 scenarios of IoU with 1 to 60 instances an image, correlation 0.15 to
    0.4 within an image, skewed, with zeros, and crowded images harder or easier; 4,000 trials
    each). Coverage of the nominal 95 %:

        images   this method    percentile     BCa            naive
        30       0.936-0.952    0.898-0.934    0.895-0.928    0.54-0.74, single instances 0.92
        100      0.940-0.953    0.924-0.944    0.922-0.945    0.55-0.72, single instances 0.94

    With 5 to 20 images the coverage is 0.92 to 0.96, with 3 about 0.86. More images are needed if
    very few of them hold most instances, or if rare failures determine the mean. Of 24,000 tests of
    true hypotheses with 50 or 100 images, p was at most 0.05 in 0.050, 0.01 in 0.009 and 0.001 in
    0.0010.

    Args:
        values: (N,) one value per instance; N of at least 1.
        clusters: (N,) image of each instance.
        seed: Seed of the bootstrap.
    """
    _, index = np.unique(clusters, return_inverse=True)
    counts = np.bincount(index).astype(np.float64)
    # Rounding must not move the mean of equal values away from them.
    mean = float(np.clip(values.mean(), values.min(), values.max()))
    residuals = np.bincount(index, weights=values - mean).astype(np.float64)
    return _mean_from_residuals(mean, counts, residuals, float(np.abs(values).max()), seed)


def clustered_mean_of_sums(
    counts: Float64Array, sums: Float64Array, limits: Interval, seed: int = 0
) -> ClusteredMean:
    """Same as `clustered_mean`, for instances that do not fit in memory.

    Takes the number of instances, at least 1, and the sum of their values for each image, and the
    minimum and maximum of all values.
    """
    mean = float(np.clip(sums.sum() / counts.sum(), *limits))
    return _mean_from_residuals(mean, counts, sums - counts * mean, max(map(abs, limits)), seed)


def cut(interval: Interval | None, bounds: Interval | None) -> Interval | None:
    """Limits an interval to the possible values of the mean, which keeps its coverage."""
    if interval is None or bounds is None:
        return interval
    return float(max(interval[0], bounds[0])), float(min(interval[1], bounds[1]))


def _mean_from_residuals(
    mean: float, counts: Float64Array, residuals: Float64Array, largest: float, seed: int
) -> ClusteredMean:
    """Interval and test of a mean, from the sum of value minus mean over each image's instances."""
    n = len(counts)
    if n < MIN_SAMPLES_FOR_INTERVAL:
        return ClusteredMean(mean, n, None, 1.0)
    least_p = 2.0 ** (1 - n)
    if np.abs(residuals).max() <= ROUNDING * largest * counts.max():
        return ClusteredMean(mean, n, (mean, mean), 1.0 if mean == 0 else least_p)
    drawn = _draw_t(counts, residuals, seed)
    error = float(np.sqrt(np.square(residuals).sum() * n / (n - 1)) / counts.sum())
    half = error * float(np.quantile(drawn, CONFIDENCE, method="weibull"))
    t = abs(mean) / error
    p_value = float((1 + (drawn >= t).sum()) / (1 + len(drawn)))
    if p_value < COUNTED_P:  # too few draws lie that far out
        from scipy import stats

        limit = float(np.quantile(drawn, 1 - COUNTED_P, method="weibull"))
        scale = limit / float(stats.t.isf(COUNTED_P / 2, n - 1))
        p_value = min(COUNTED_P, 2 * float(stats.t.sf(t / scale, n - 1)))
    return ClusteredMean(mean, n, (mean - half, mean + half), max(p_value, least_p))


def _draw_t(counts: Float64Array, residuals: Float64Array, seed: int) -> Float64Array:
    """|t*| of every resample of images, without those in which the images do not differ."""
    from scipy import stats

    n = len(counts)
    least = ROUNDING * np.square(residuals).sum()

    def dot(a: Float64Array, b: Float64Array) -> Float64Array:
        return np.asarray(np.einsum("...i,...i->...", a, b))

    def distance(count: Float64Array, residual: Float64Array, axis: int = -1) -> Float64Array:
        total, drawn = residual.sum(axis=axis), count.sum(axis=axis)
        shift = total / drawn
        # The sum of (residual - shift * count)^2, without an array of that size.
        spread = dot(residual, residual) - 2 * shift * dot(residual, count)
        spread += shift**2 * dot(count, count)
        error = np.sqrt(np.maximum(spread, least) * n / (n - 1))
        # scipy accepts no NaN: a negative distance marks a draw in which all images are alike.
        return np.asarray(np.where(spread > least, np.abs(total) / error, -1.0))

    result = stats.bootstrap(
        (counts, residuals),
        distance,
        n_resamples=N_RESAMPLES_T,
        batch=max(1, BATCH_VALUES // n),
        vectorized=True,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    drawn = np.asarray(result.bootstrap_distribution, np.float64)
    return drawn[drawn >= 0]
