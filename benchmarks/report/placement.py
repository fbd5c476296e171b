"""Placement of names in a plot so that they cover neither each other nor the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.records.statistics import Float64Array

_GAPS = (3, 7, 12, 18)
_DEGREES = (0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200)
_DIRECTIONS = np.stack([np.cos(np.radians(_DEGREES)), np.sin(np.radians(_DEGREES))], axis=1)
_SIDES = np.sign(_DIRECTIONS.round(6))
"""Places are on growing rings; in each, right and left come before above and below."""
_SHIFTS = (0.0, -0.35, 0.35)
"""Of a label above or below an error bar, in widths."""
AMBIGUOUS_PX = 4.0
"""A label must be nearer to its own point than to any other by this."""


def place_labels(
    markers: Float64Array,
    bars: Float64Array,
    sizes: Float64Array,
    obstacles: Float64Array,
    frame: Float64Array,
    *,
    force: bool = False,
) -> Float64Array:
    """Finds a place next to every point for its label, one after the other, near places first.

    Rectangles are (x0, y0, x1, y1) in pixels.

    Args:
        markers: (N, 4) rectangles around the markers.
        bars: (N, 4) rectangles around the vertical error bars, or the markers again.
        sizes: (N, 2) width and height of the labels.
        obstacles: (M, 4) rectangles that labels must not cover, markers included.
        frame: (4,) rectangle that labels must not leave.
        force: Use the place that covers least where none is free.

    Returns:
        (N, 4) rectangles; NaN where no place is free, or nearer to this point than to all others.
    """
    placed = np.empty((0, 4))
    for index, size in enumerate(sizes):
        own = np.stack([markers[index], bars[index]])
        others = np.delete(np.stack([markers, bars]), index, axis=1).reshape(-1, 4)
        places = _places(markers[index], bars[index], size)
        taken = np.vstack([placed[~np.isnan(placed[:, 0])], obstacles])
        outside = size.prod() - _overlaps(places, frame[None])[:, 0]
        nearest = _distances(places, others).min(axis=1, initial=np.inf)
        costs = (
            10 * outside
            + _overlaps(places, taken).sum(axis=1)
            + (nearest < _distances(places, own).min(axis=1) + AMBIGUOUS_PX)
        )
        # Equal up to rounding, the earlier place is nearer.
        best = np.argmin(costs.round(6))
        found = places[best] if force or costs[best] < 1e-6 else np.full(4, np.nan)
        placed = np.vstack([placed, found])
    return placed


def _places(marker: Float64Array, bar: Float64Array, size: Float64Array) -> Float64Array:
    """(C, 4) places around a marker and at the ends of its error bar, near ones first."""
    half, middle = (marker[2:] - marker[:2]) / 2, (marker[2:] + marker[:2]) / 2
    found = []
    for gap in _GAPS:
        # The nearest edge or corner of a label lies on a ring around the point, not its centre.
        found.append(middle + _DIRECTIONS * (half + gap) + _SIDES * size / 2)
        ends = [(bar[3] + gap + size[1] / 2), (bar[1] - gap - size[1] / 2)]
        beyond = [(middle[0] + shift * size[0], end) for end in ends for shift in _SHIFTS]
        found.append(np.array(beyond))
    middles = np.vstack(found)
    return np.hstack([middles - size / 2, middles + size / 2])


def _overlaps(some: Float64Array, others: Float64Array) -> Float64Array:
    """(C, M) common areas of (C, 4) and (M, 4) rectangles."""
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    areas: Float64Array = np.clip(high - low, 0, None).prod(axis=2)
    return areas


def _distances(some: Float64Array, others: Float64Array) -> Float64Array:
    """(C, M) distances of (C, 4) and (M, 4) rectangles, 0 where they touch."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    lengths: Float64Array = np.linalg.norm(np.clip(low - high, 0, None), axis=2)
    return lengths


def clusters(centres: Float64Array, radii: Float64Array) -> list[list[int]]:
    """Indices of (N, 2) points whose markers of (N,) radii cover each other by half or more."""
    groups: list[list[int]] = []
    for index, (centre, radius) in enumerate(zip(centres, radii, strict=True)):
        near = [
            group
            for group in groups
            if any(
                np.linalg.norm(centres[other] - centre) < max(radii[other], radius)
                for other in group
            )
        ]
        groups = [group for group in groups if group not in near]
        groups.append(sorted([*(each for group in near for each in group), index]))
    return sorted(groups)


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves positions between `low` and `high` apart until neighbours differ by `gap`.

    Their order stays; the gap is smaller if there is not enough room.
    """
    if len(positions) > 1:
        gap = min(gap, (high - low) / (len(positions) - 1))
    order = sorted(range(len(positions)), key=lambda index: (positions[index], index))
    moved = list(positions)
    floor = low
    for index in order:
        moved[index] = max(moved[index], floor)
        floor = moved[index] + gap
    ceiling = high
    for index in reversed(order):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved
