"""Grids and crops equal segment-anything's; schedules prompt each point at most once."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.utils import amg

from mobilesam.everything.point_grid import (
    PROMPTED_SHARE,
    PointSchedule,
    crops_of,
    grid_levels,
    layer_grids,
)

FAST = settings(max_examples=40, deadline=None, derandomize=True)


def test_cover_of_points_decreases_with_the_size_of_masks() -> None:
    order = PointSchedule(16, batch=4, hierarchical=True)
    cells = amg.build_point_grid(4) * 8
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :, :6] = True  # most of the image: the first three columns of points
    masks[1, :, 6:] = True  # the fourth column
    batches = order.batches()
    assert next(batches).tolist() == [5, 7, 13, 15]
    order.add_masks(masks, cells)
    # Seven of sixteen points are prompted; those on the large mask are first, row by row.
    assert next(batches).tolist() == [0, 1, 2]
    assert list(batches) == []


def test_empty_and_full_masks_do_not_change_the_order() -> None:
    cells = amg.build_point_grid(4) * 8
    order = PointSchedule(16, batch=64, hierarchical=True)
    batches = order.batches()
    next(batches)
    order.add_masks(torch.zeros(0, 8, 8, dtype=torch.bool), cells)
    order.add_masks(torch.ones(1, 8, 8, dtype=torch.bool), cells)
    assert next(batches).tolist() == [0, 1, 2]


@FAST
@given(per_side=st.integers(1, 12), batch=st.integers(1, 70), seed=st.integers(0, 99))
def test_schedules_prompt_each_point_at_most_once(per_side: int, batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = per_side**2
    cells = amg.build_point_grid(per_side) * 8
    for order, wanted in (
        (PointSchedule(count, batch, hierarchical=False), count),
        (
            PointSchedule(count, batch, hierarchical=True),
            max(((per_side + 1) // 2) ** 2, round(PROMPTED_SHARE * count)),
        ),
    ):
        prompted: list[int] = []
        for chosen in order.batches():
            assert 0 < len(chosen) <= batch
            prompted += chosen.tolist()
            order.add_masks(torch.rand(3, 8, 8, generator=generator) > 0.6, cells)
        assert len(set(prompted)) == len(prompted)
        assert len(prompted) <= max(wanted, 1)
        assert len(prompted) >= PROMPTED_SHARE * count - 1


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


def test_levels_are_nested_grids() -> None:
    levels = grid_levels(32, (4, 2, 1)).reshape(32, 32)
    assert [(levels <= level).sum() for level in range(3)] == [64, 256, 1024]
    coarse = np.argwhere(levels == 0)
    assert set(np.diff(np.unique(coarse[:, 0]))) == {4}
    assert coarse.min() == 2
    assert grid_levels(1, (4, 2, 1)).tolist() == [0]
    assert grid_levels(3, (4, 2, 1)).tolist() == [2, 2, 2, 2, 0, 2, 2, 2, 2]
