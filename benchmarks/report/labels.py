"""Where names stand in a plot so that they hide neither each other nor the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CROSSING_PX2 = 300.0
"""A leader line through a foreign marker is as bad as a label that covers so much of the data."""


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle in pixels, y upwards."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlap(self, other: Rect) -> float:
        """Common area, in square pixels."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return width * height if width > 0 and height > 0 else 0.0

    def outside(self, frame: Rect) -> float:
        """Area that lies outside of a frame, in square pixels."""
        return (self.x1 - self.x0) * (self.y1 - self.y0) - self.overlap(frame)


@dataclass(frozen=True, slots=True)
class Spot:
    """A point to be named.

    Attributes:
        x: In pixels.
        y: In pixels, upwards.
        radius: Of its marker, in pixels.
        width: Of its label, in pixels.
        height: Of its label, in pixels.
    """

    x: float
    y: float
    radius: float
    width: float
    height: float


def place_labels(spots: Sequence[Spot], obstacles: Sequence[Rect], frame: Rect) -> list[Rect]:
    """Finds a place for the label of every spot, one after the other, near ones first.

    Args:
        spots: Points with the sizes of their labels.
        obstacles: What labels must not cover, markers of the spots included.
        frame: Where labels must stay.

    Returns:
        One rectangle a spot. Labels overlap only where no free place was found within reach.
    """
    placed: list[Rect] = []
    for spot in spots:
        others = [*placed, *(marker(other) for other in spots if other != spot)]
        candidates = _candidates(spot)
        costs = [
            100 * place.outside(frame)
            + 10 * sum(place.overlap(other) for other in placed)
            + sum(place.overlap(other) for other in obstacles)
            + CROSSING_PX2 * _crossings(spot, place, others)
            for place in candidates
        ]
        placed.append(candidates[costs.index(min(costs))])
    return placed


def marker(spot: Spot) -> Rect:
    """The square around a spot's marker."""
    r = spot.radius
    return Rect(spot.x - r, spot.y - r, spot.x + r, spot.y + r)


def nearest_point(spot: Spot, place: Rect) -> tuple[float, float]:
    """The point of a label that lies nearest to its spot; a leader line ends there."""
    return min(max(spot.x, place.x0), place.x1), min(max(spot.y, place.y0), place.y1)


def _crossings(spot: Spot, place: Rect, others: Sequence[Rect]) -> int:
    """How many labels and markers of others the line from a spot to its label runs through."""
    end_x, end_y = nearest_point(spot, place)
    steps = [step / 16 for step in range(17)]
    line = [(spot.x + t * (end_x - spot.x), spot.y + t * (end_y - spot.y)) for t in steps]
    return sum(
        any(r.x0 - 2 < x < r.x1 + 2 and r.y0 - 2 < y < r.y1 + 2 for x, y in line) for r in others
    )


def _candidates(spot: Spot) -> list[Rect]:
    """Rings around a spot, growing; in each, right and left come before above and below."""
    found = []
    for gap in (3, 8, 16, 26, 38, 52, 70, 90, 120, 160, 210):
        for degrees in (0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200, 65, 115, 245, 295):
            angle = math.radians(degrees)
            reach = spot.radius + gap
            # The label's own half size keeps its nearest edge, not its centre, on the ring.
            x = spot.x + math.cos(angle) * (reach + spot.width / 2)
            y = spot.y + math.sin(angle) * (reach + spot.height / 2)
            half_w, half_h = spot.width / 2, spot.height / 2
            found.append(Rect(x - half_w, y - half_h, x + half_w, y + half_h))
    return found


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves positions on a line apart until neighbours differ by `gap`, keeping their order.

    Args:
        positions: Wanted places, in any order and unit.
        gap: Least distance; made smaller where there is not room enough for all.
        low: Lowest place allowed.
        high: Highest place allowed.

    Returns:
        The places, in the order of `positions`.
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
