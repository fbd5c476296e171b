"""Placement of names in a plot so that they cover neither each other nor the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.records.statistics import Float64Array

CROSSING_PX2 = 300.0
"""Cost of a leader line through another marker, in square pixels of covered data."""
_GAPS = np.array((3, 8, 16, 26, 38, 52, 70, 90, 120, 160, 210))[:, None, None]
_DEGREES = (0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200, 65, 115, 245, 295)
_DIRECTIONS = np.stack([np.cos(np.radians(_DEGREES)), np.sin(np.radians(_DEGREES))], axis=1)
"""Places are on growing rings; in each, right and left come before above and below."""


def place_labels(
    centres: Float64Array,
    radii: Float64Array,
    sizes: Float64Array,
    obstacles: Float64Array,
    frame: Float64Array,
) -> Float64Array:
    """Finds a place for the label of every point, one after the other, near places first.

    Args:
        centres: (N, 2) points in pixels.
        radii: (N,) radii of their markers.
        sizes: (N, 2) width and height of their labels.
        obstacles: (M, 4) rectangles (x0, y0, x1, y1) that labels must not cover, markers included.
        frame: (4,) rectangle that labels must not leave.

    Returns:
        (N, 4) rectangles. They overlap only if no free place was found within reach.
    """
    markers = np.hstack([centres - radii[:, None], centres + radii[:, None]])
    placed = np.empty((0, 4))
    for index, (centre, size) in enumerate(zip(centres, sizes, strict=True)):
        # The nearest edge of a label lies on a ring around the point, not its centre.
        middles = (centre + _DIRECTIONS * (radii[index] + _GAPS + size / 2)).reshape(-1, 2)
        places = np.hstack([middles - size / 2, middles + size / 2])
        # The number of markers and labels that the leader line to each place runs through.
        others = np.vstack([placed, np.delete(markers, index, axis=0)])
        ends = nearest_point(centre, places)[:, None]
        lines = (centre + np.linspace(0, 1, 17)[:, None] * (ends - centre))[:, :, None]
        inside = ((lines > others[:, :2] - 2) & (lines < others[:, 2:] + 2)).all(axis=3)
        costs = (
            100 * (size.prod() - _overlaps(places, frame[None])[:, 0])
            + 10 * _overlaps(places, placed).sum(axis=1)
            + _overlaps(places, obstacles).sum(axis=1)
            + CROSSING_PX2 * inside.any(axis=1).sum(axis=1)
        )
        # Equal up to rounding, the earlier place is nearer.
        placed = np.vstack([placed, places[np.argmin(costs.round(6))]])
    return placed


def nearest_point(centre: Float64Array, place: Float64Array) -> Float64Array:
    """The point of a label nearest to its marker, where a leader line ends."""
    return np.clip(centre, place[..., :2], place[..., 2:])


def _overlaps(some: Float64Array, others: Float64Array) -> Float64Array:
    """(C, M) common areas of (C, 4) and (M, 4) rectangles."""
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    areas: Float64Array = np.clip(high - low, 0, None).prod(axis=2)
    return areas


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
