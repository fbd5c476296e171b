"""Grids and crops equal segment-anything's; points with distinct masks are chosen."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.utils import amg

from mobilesam.everything.point_grid import (
    POINTS_PER_OBJECT,
    STABILITY_MARGIN,
    RoughLimits,
    crops_of,
    distinct_points,
    layer_grids,
)
from mobilesam.fast.preview import RoughMasks

LIMITS = RoughLimits(0.0, 0.5)
FAST = settings(max_examples=40, deadline=None, derandomize=True)


def rough(areas: list[list[int]], scores: list[list[float]]) -> RoughMasks:
    """Stable masks of points: the first so many of 100 cells, or the last ones if negative."""
    cells, given = torch.arange(100), torch.tensor(areas)[..., None]
    masks = torch.where(given > 0, cells < given, cells >= 100 + given)
    return RoughMasks(torch.tensor(scores), torch.ones(len(areas), len(areas[0])), masks)


def test_three_points_of_an_object_are_chosen_the_best_first() -> None:
    scores = [[0.5], [0.9], [0.8], [0.1], [0.7], [0.6]]
    found = rough([[50], [50], [48], [30], [45], [-20]], scores)
    assert POINTS_PER_OBJECT == 3
    assert distinct_points(found, LIMITS).tolist() == [1, 2, 3, 4, 5]


def test_points_without_a_good_mask_are_left_out_unless_all_are_kept() -> None:
    score, stability = 0.8, 0.9 - STABILITY_MARGIN
    found = rough([[10], [-10], [40], [-40]], [[score + 0.01], [0.9], [score], [0.9]])
    stable = torch.tensor([[0.95], [stability + 0.01], [0.95], [stability]])
    found = found._replace(stability=stable)
    assert distinct_points(found, RoughLimits.of(0.8, 0.9)).tolist() == [0, 1]
    assert distinct_points(found, RoughLimits.of(0.0, 0.9)).tolist() == [0, 1, 2]
    assert distinct_points(found, RoughLimits.of(0.8, 0.0)).tolist() == [0, 1, 3]
    assert distinct_points(found, RoughLimits.of(0.0, 0.0)).tolist() == [0, 1, 2, 3]
    assert distinct_points(found, RoughLimits.of(2.0, 0.9)).tolist() == []


def test_a_point_with_one_new_mask_is_chosen_and_all_its_masks_count() -> None:
    scores = [[0.9, 0.5], [0.85, 0.5], [0.8, 0.5], [0.7, 0.1], [0.6, 0.05]]
    found = rough([[50, 20], [50, 20], [50, 80], [50, 20], [50, 20]], scores)
    # The fourth is the third of the smallest object; the fifth shows nothing new.
    assert distinct_points(found, LIMITS).tolist() == [0, 1, 2, 3]


@FAST
@given(st.tuples(st.integers(60, 900), st.integers(60, 900)), st.integers(0, 3), st.floats(0, 0.6))
def test_crops_equal_segment_anything(
    size_hw: tuple[int, int], n_layers: int, overlap: float
) -> None:
    boxes, layers = amg.generate_crop_boxes(size_hw, n_layers, overlap)
    found = crops_of(size_hw, n_layers, overlap)
    assert [list(crop.box) for crop in found] == boxes
    assert [crop.layer for crop in found] == layers


def test_grids_equal_segment_anything() -> None:
    expected = amg.build_all_layer_point_grids(32, 2, 3)
    for found, grid in zip(layer_grids(32, 2, 3), expected, strict=True):
        np.testing.assert_array_equal(found, grid)
