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
    crops_of,
    distinct_points,
    layer_grids,
)

FAST = settings(max_examples=40, deadline=None, derandomize=True)


def rough(areas: list[int]) -> torch.Tensor:
    """One mask of each point: the first so many of 100 cells, or the last ones if negative."""
    cells = torch.arange(100)
    found = [cells < area if area > 0 else cells >= 100 + area for area in areas]
    return torch.stack(found)[:, None]


def test_points_of_an_object_are_chosen_twice_the_best_first() -> None:
    masks = rough([50, 50, 48, 30, 45, -20])
    scores = np.array([[0.5], [0.9], [0.8], [0.1], [0.7], [0.6]], np.float32)
    chosen = distinct_points(masks, scores, np.ones_like(scores), 0.95)
    assert POINTS_PER_OBJECT == 2
    assert chosen.tolist() == [1, 2, 3, 5]


def test_points_without_a_stable_mask_are_left_out_unless_all_are_kept() -> None:
    masks = rough([10, -10, 40])
    stability = np.array([[0.95], [0.9 - STABILITY_MARGIN], [0.0]], np.float32)
    given = masks, np.ones_like(stability), stability
    assert distinct_points(*given, 0.95).tolist() == [0]
    assert distinct_points(*given, 0.0).tolist() == [0, 1, 2]
    assert distinct_points(*given, 9.0).tolist() == []


def test_a_point_with_one_new_mask_is_chosen_and_all_its_masks_count() -> None:
    masks = torch.cat((rough([50, 50, 50, 50]), rough([20, 80, 20, 20])), 1)
    scores = np.array([[0.9, 0.5], [0.8, 0.5], [0.7, 0.1], [0.6, 0.0]], np.float32)
    # The third is the second of the smallest object; the fourth shows nothing new.
    assert distinct_points(masks, scores, np.ones_like(scores), 0.95).tolist() == [0, 1, 2]


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
