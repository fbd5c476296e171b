"""Ratios of medians with intervals: of two runs apart, and of two sides that took turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.records.statistics import (
    CONFIDENCE,
    MIN_SAMPLES_FOR_INTERVAL,
    N_RESAMPLES,
    Float64Array,
    percentile_interval,
)

MIN_PROCESSES_OF_RATIO = 2
"""Minimum on each side; a single process does not show how much processes differ."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as much the new side takes.

    Attributes:
        value: New over old.
        ci95: 95 % interval; None where there are too few samples for one.
    """

    value: float
    ci95: tuple[float, float] | None


def ratio_of_runs(old: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> Ratio:
    """Ratio of the medians of two runs that were made one after the other.

    The interval is Welch's t on the logarithms of the medians of the processes, since calls of one
    process do not show how much processes differ. Changes of the machine between the runs are part
    of the ratio, but not covered by the interval.

    Measured by simulation (processes that differ by 5 %, calls by 3 %; 4,000 trials of two equal
    runs): coverage is 0.97 with 2 processes on each side, 0.96 with 3 or 5 on each side, and 0.95
    with 5 against 3.

    Args:
        old: Positive samples, one sequence a process; at least one sample.
        new: Likewise; the number of processes and calls may differ.

    Returns:
        The ratio, without an interval if either side has fewer than two processes.
    """
    sides = [[np.asarray(group, np.float64) for group in side if len(group)] for side in (old, new)]
    before, after = (float(np.median(np.concatenate(side))) for side in sides)
    value = after / before
    if min(map(len, sides)) < MIN_PROCESSES_OF_RATIO:
        return Ratio(value, None)
    first, second = (np.log([np.median(group) for group in side]) for side in sides)
    low, high = _welch_interval(first, second)
    return Ratio(value, (min(float(np.exp(low)), value), max(float(np.exp(high)), value)))


def _welch_interval(first: Float64Array, second: Float64Array) -> tuple[float, float]:
    """95 % interval of the difference of two means, the second less the first, by Welch's t."""
    from scipy import stats

    difference = float(second.mean() - first.mean())
    parts = np.array([side.var(ddof=1) / len(side) for side in (first, second)])
    if not parts.any():
        return difference, difference
    dof = parts.sum() ** 2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (first, second), strict=True)
    )
    half = float(stats.t.isf((1 - CONFIDENCE) / 2, dof) * np.sqrt(parts.sum()))
    return difference - half, difference + half


def ratio_in_turns(
    old: Sequence[Sequence[float]], new: Sequence[Sequence[float]], seed: int = 0
) -> Ratio:
    """Ratio of medians of two sides that took turns, in pairs of processes.

    In each pair the medians over the turns give a ratio; the answer is the geometric mean of these,
    so that a pair that ran while the machine was slow counts like any other. Pairs are drawn first,
    then turns within each, the same for both sides: what happens to the machine in a turn happens
    to both.

    With so few pairs their spread is estimated low, by the root of (n - 1) / n; the draws are
    widened by as much. Measured by simulation (two equal sides, 500 trials each): 5 pairs that
    differ by 3 % with 12 turns that differ by 5 % are covered in 0.99 of trials, 8 pairs in 0.98,
    4 pairs that differ by 5 % with 10 turns in 0.93, 3 such pairs in 0.88. A verdict therefore
    needs a repetition (`regression.judge`).

    Args:
        old: Positive samples, one sequence a pair of processes, one value a turn.
        new: The same turns of the other side.
        seed: Of the bootstrap.

    Raises:
        ValueError: The sides differ in their turns, or have none.
    """
    if [len(group) for group in old] != [len(group) for group in new] or not any(map(len, old)):
        raise ValueError("both sides need the same turns, at least one")
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(old, new, strict=True)
        if len(a)
    ]
    logs = np.array([np.log(np.median(b) / np.median(a)) for a, b in pairs])
    center = float(logs.mean())
    if len(pairs) < MIN_SAMPLES_FOR_INTERVAL:
        return Ratio(float(np.exp(center)), None)
    means = _draw_means(pairs, np.random.default_rng(seed))
    wide = center + (means - center) * np.sqrt(len(pairs) / (len(pairs) - 1))
    return Ratio(float(np.exp(center)), percentile_interval(np.exp(wide)))


def _draw_means(
    pairs: Sequence[tuple[Float64Array, Float64Array]], rng: np.random.Generator
) -> Float64Array:
    """(N_RESAMPLES,) mean logarithms of the ratios of drawn pairs, each over drawn turns."""
    chosen = rng.integers(len(pairs), size=(N_RESAMPLES, len(pairs)))
    logs = np.empty(chosen.shape)
    for index, (old, new) in enumerate(pairs):
        where = chosen == index
        turns = rng.integers(len(old), size=(int(where.sum()), len(old)))
        logs[where] = np.log(np.median(new[turns], axis=1) / np.median(old[turns], axis=1))
    return np.asarray(logs.mean(axis=1))
