"""Coarse masks: the grid, its storage, erosion and dilation, and the input of a model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from baselines.interface import BoolArray, MaskFrame
from benchmarks.prompts import coarse_masks
from benchmarks.prompts.coarse_masks import (
    CHANGE,
    changed,
    coarse_mask,
    grid_shape,
    mask_prompts,
    pack,
    unpack,
)

QUICK = settings(derandomize=True, deadline=None, max_examples=60)
MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=90))


@QUICK
@given(MASKS)
def test_a_cell_is_in_the_mask_if_half_of_it_is(mask: BoolArray) -> None:
    assume(mask.any())
    rows, columns = grid_shape((mask.shape[0], mask.shape[1]))
    tops = [row * mask.shape[0] // rows for row in range(rows + 1)]
    lefts = [column * mask.shape[1] // columns for column in range(columns + 1)]
    shares = np.array(
        [
            [mask[top:bottom, left:right].mean() for left, right in zip(lefts, lefts[1:])]  # noqa: B905, RUF007
            for top, bottom in zip(tops, tops[1:])  # noqa: B905, RUF007
        ]
    )
    found = coarse_mask(mask)
    assert found.any()
    assert np.array_equal(found, shares >= min(0.5, shares.max()))


@QUICK
@given(MASKS)
def test_packing_loses_nothing(mask: BoolArray) -> None:
    assume(mask.any())
    grid = coarse_mask(mask)
    packed = pack(grid)
    assert packed.dtype == np.float32
    assert np.array_equal(unpack(packed, (mask.shape[0], mask.shape[1])), grid)


@pytest.mark.parametrize(
    ("size_hw", "shape"),
    [((480, 640), (48, 64)), ((640, 480), (64, 48)), ((10, 20), (10, 20)), ((1, 5000), (1, 64))],
)
def test_the_longer_side_has_64_cells(size_hw: tuple[int, int], shape: tuple[int, int]) -> None:
    assert grid_shape(size_hw) == shape


@QUICK
@given(MASKS)
def test_changes_are_those_of_a_square(mask: BoolArray) -> None:
    assume(mask.any())
    distance = max(1, round(CHANGE * float(np.sqrt(mask.sum()))))
    square = np.ones((2 * distance + 1,) * 2)
    assert np.array_equal(changed(mask, "dilated"), ndimage.binary_dilation(mask, square))
    eroded = ndimage.binary_erosion(mask, square)
    found = changed(mask, "eroded")
    assert found.any()
    assert not (found & ~mask).any()
    if eroded.any():
        assert np.array_equal(found, eroded)


@QUICK
@given(st.integers(8, 700), st.integers(8, 700), st.integers(0, 99))
def test_boxes_enclose_the_cells(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    mask[y : y + height // 3 + 1, x : x + width // 3 + 1] = True
    frame = MaskFrame((height, width), (32, 32), (20, 32))
    prompts = mask_prompts(pack(coarse_mask(mask))[None], frame)
    assert prompts.boxes is not None
    wanted = [x, y, min(width, x + width // 3 + 1), min(height, y + height // 3 + 1)]
    cells = np.array([width, height, width, height]) / np.tile(grid_shape((height, width))[::-1], 2)
    assert (np.abs(prompts.boxes[0] - wanted) <= cells + 1).all()


def test_logits_lie_where_the_image_does() -> None:
    mask = np.zeros((48, 64), bool)
    mask[:, 32:] = True
    frame = MaskFrame((48, 64), (256, 256), (192, 256))
    prompts = mask_prompts(pack(coarse_mask(mask))[None], frame)
    logits = prompts.mask_inputs
    assert logits is not None
    assert logits.shape == (1, 1, 256, 256)
    assert (logits[0, 0, 192:] == -coarse_masks.LOGIT).all()
    assert (logits[0, 0, :192, :125] == -coarse_masks.LOGIT).all()
    assert (logits[0, 0, :192, 131:] == coarse_masks.LOGIT).all()
    assert prompts.boxes is not None
    assert prompts.boxes.tolist() == [[32, 0, 64, 48]]
