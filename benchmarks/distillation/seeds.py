"""Means over seeds with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class SeedMean:
    """A mean over runs that differ in their seed alone.

    Attributes:
        mean: Of all runs.
        ci95: Student's t interval of the mean; None for fewer than two runs.
        n: Runs.
    """

    mean: float
    ci95: tuple[float, float] | None
    n: int


def over_seeds(values: Sequence[float]) -> SeedMean:
    """Mean and interval of a value of several runs; at least one.

    The interval is for the mean of runs with other seeds on the same pictures and the same
    evaluation: it says nothing of other data.
    """
    from scipy import stats

    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return SeedMean(mean, None, n)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * deviation / math.sqrt(n)
    return SeedMean(mean, (mean - half, mean + half), n)
