from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from benchmarks.report.labels import nearest_point, place_labels, spread


def test_labels_stay_apart_and_inside() -> None:
    centres = np.array([(100.0 + 3 * index, 100) for index in range(6)])
    sizes, radii = np.tile((60.0, 12.0), (6, 1)), np.full(6, 5.0)
    markers = np.hstack([centres - 5, centres + 5])
    placed = place_labels(centres, radii, sizes, markers, np.array((0.0, 0, 400, 300)))
    assert placed[:, 2:] - placed[:, :2] == pytest.approx(sizes)
    assert (placed >= 0).all()
    assert (placed <= (400, 300, 400, 300)).all()
    for a, b in combinations([*placed, *markers], 2):
        common = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        if not any((a == marker).all() for marker in markers):
            assert (common <= 0).any()


def test_single_label_is_right_of_its_point() -> None:
    centre = np.array([(50.0, 50.0)])
    (place,) = place_labels(
        centre,
        np.array([4.0]),
        np.array([(20.0, 10.0)]),
        np.empty((0, 4)),
        np.array((0, 0, 99, 99.0)),
    )
    assert place == pytest.approx((57, 45, 77, 55))
    assert nearest_point(centre[0], place) == pytest.approx((57, 50))


def test_spread() -> None:
    moved = spread([0.5, 0.51, 0.49, 0.99], 0.1, 0.0, 1.0)
    assert sorted(moved) == pytest.approx([0.49, 0.59, 0.69, 0.99])
    assert moved[2] < moved[0] < moved[1]
    tight = spread([0.9] * 5, 0.5, 0.0, 1.0)
    assert sorted(tight) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
