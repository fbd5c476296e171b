from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.report.placement import clusters, place_labels, spread


def squares(*centres: tuple[float, float], half: float = 5.0) -> np.ndarray:
    return np.array([(x - half, y - half, x + half, y + half) for x, y in centres])


FRAME = np.array((0.0, 0.0, 400.0, 300.0))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300)), min_size=1, max_size=7),
    st.floats(10, 120),
)
def test_labels_cover_nothing_and_lie_next_to_their_points(
    centres: list[tuple[float, float]], width: float
) -> None:
    markers, sizes = squares(*centres), np.tile((width, 12.0), (len(centres), 1))
    placed = place_labels(markers, markers, sizes, markers, FRAME)
    shown = [place for place in placed if not np.isnan(place).any()]
    for place in shown:
        assert place[2:] - place[:2] == pytest.approx(sizes[0])
        assert (place[:2] >= -1e-6).all()
        assert (place[2:] <= FRAME[2:] + 1e-6).all()
    for a, b in [*combinations(shown, 2), *product(shown, markers)]:
        assert (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) <= 1e-6).any()
    for index, place in enumerate(placed):
        gaps = np.clip(np.maximum(place[:2] - markers[:, 2:], markers[:, :2] - place[2:]), 0, None)
        lengths = np.linalg.norm(gaps, axis=1)
        if not np.isnan(place).any():
            assert lengths[index] < 20
            assert all(lengths[index] < other for other in np.delete(lengths, index))
    forced = place_labels(markers, markers, sizes, markers, FRAME, force=True)
    assert not np.isnan(forced).any()


def test_single_label_is_right_of_its_point() -> None:
    marker, size = squares((50.0, 50.0), half=4.0), np.array([(20.0, 10.0)])
    (place,) = place_labels(marker, marker, size, np.empty((0, 4)), FRAME)
    assert place == pytest.approx((57, 45, 77, 55))


def test_label_goes_to_the_end_of_an_error_bar() -> None:
    markers = squares((100.0, 150.0), (112.0, 150.0))
    bars = np.array([(99.0, 100.0, 101.0, 200.0), (111.0, 140.0, 113.0, 160.0)])
    walls = np.array([(0.0, 130.0, 400.0, 170.0)])
    sizes = np.array([(40.0, 10.0)] * 2)
    place, lost = place_labels(markers, bars, sizes, np.vstack([markers, bars, walls]), FRAME)
    assert place[1] == pytest.approx(203)
    assert np.isnan(lost).all()


def test_points_on_one_place_are_a_cluster() -> None:
    centres = np.array([(0.0, 0), (50, 0), (3, 0), (6, 0), (50, 40)])
    assert clusters(centres, np.full(5, 4.0)) == [[0, 2, 3], [1], [4]]


def test_spread() -> None:
    moved = spread([0.5, 0.51, 0.49, 0.99], 0.1, 0.0, 1.0)
    assert sorted(moved) == pytest.approx([0.49, 0.59, 0.69, 0.99])
    assert moved[2] < moved[0] < moved[1]
    tight = spread([0.9] * 5, 0.5, 0.0, 1.0)
    assert sorted(tight) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
