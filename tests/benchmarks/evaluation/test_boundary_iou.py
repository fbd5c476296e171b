"""Boundary IoU, against its literal definition."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from benchmarks.evaluation.boundary_iou import (
    BOUNDARY_RATIO,
    Boundary,
    boundary_width_px,
    iou,
)
from mobilesam.errors import DataError

QUICK = settings(derandomize=True, deadline=None, max_examples=120)
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=24)
MASKS = hnp.arrays(np.bool_, SHAPES)
PAIRS = SHAPES.flatmap(
    lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape))
)
RATIOS = st.sampled_from((0.001, 0.02, 0.05, 0.1, 0.3, 1.0))


def whole_boundary(boundary):
    """A boundary at the image's size."""
    found = np.zeros(boundary.size_hw, np.bool_)
    height, width = boundary.crop.shape
    top, left = boundary.top, boundary.left
    found[top : top + height, left : left + width] = boundary.crop
    return found


def boundary_iou(a, b, ratio=BOUNDARY_RATIO):
    return iou(Boundary.of(a, ratio), Boundary.of(b, ratio))


def literal(mask, ratio):
    """The definition: as many erosions by 3 x 3 pixels as the boundary is wide."""
    width = max(1, round(ratio * math.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)))
    eroded = np.pad(mask, 1)
    for _ in range(width):
        eroded = np.logical_and.reduce(
            [np.roll(eroded, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        )
        eroded[[0, -1]] = False
        eroded[:, [0, -1]] = False
    return mask & ~eroded[1:-1, 1:-1]


def literal_iou(a, b, ratio):
    a, b = literal(a, ratio), literal(b, ratio)
    union = (a | b).sum()
    return 1.0 if union == 0 else (a & b).sum() / union


@QUICK
@given(MASKS, RATIOS)
def test_a_boundary_by_definition(mask, ratio):
    before = mask.copy()
    found = whole_boundary(Boundary.of(mask, ratio))
    assert found.dtype == np.bool_
    assert np.array_equal(found, literal(mask, ratio))
    assert np.array_equal(mask, before)


@QUICK
@given(st.integers(0, 2**32 - 1), RATIOS)
def test_boundaries_of_large_smooth_masks(seed, ratio):
    noise = np.random.default_rng(seed).normal(size=(2, 50, 70))
    a, b = (ndimage.gaussian_filter(each, 4) > 0.01 for each in noise)
    assert np.array_equal(whole_boundary(Boundary.of(a, ratio)), literal(a, ratio))
    assert boundary_iou(a, b, ratio) == literal_iou(a, b, ratio)


@QUICK
@given(PAIRS, RATIOS)
def test_boundary_iou_by_definition(pair, ratio):
    a, b = pair
    found = boundary_iou(a, b, ratio)
    assert found == literal_iou(a, b, ratio)
    assert 0 <= found <= 1
    assert boundary_iou(b, a, ratio) == found
    assert boundary_iou(a, a, ratio) == 1.0


@pytest.mark.parametrize(
    ("size_hw", "width"), [((480, 640), 16), ((3, 4), 1), ((1500, 2250), 54), ((1, 1), 1)]
)
def test_width_follows_the_diagonal(size_hw, width):
    assert boundary_width_px(size_hw) == width


def test_the_border_of_the_image_is_outside():
    full = np.ones((480, 640), bool)
    found = whole_boundary(Boundary.of(full))
    assert found.sum() == 480 * 640 - (480 - 32) * (640 - 32)
    assert found[:16].all()
    assert not found[16:-16, 16:-16].any()


def test_the_ratio_is_the_papers_unless_given():
    mask = np.zeros((480, 640), bool)
    mask[100:300, 100:400] = True
    assert BOUNDARY_RATIO == 0.02
    assert np.array_equal(whole_boundary(Boundary.of(mask)), literal(mask, 0.02))


def test_boundaries_made_once_can_be_used_again():
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(3, 60, 80)), (0, 3, 3))
    masks = noise > 0.05
    once = [Boundary.of(mask) for mask in masks]
    for i, a in enumerate(masks):
        for j, b in enumerate(masks):
            assert iou(once[i], once[j]) == literal_iou(a, b, 0.02)
    for mask, each in zip(masks, once, strict=True):
        assert each.area_px == whole_boundary(each).sum() == literal(mask, 0.02).sum()


def test_empty_masks():
    empty = np.zeros((5, 6), bool)
    assert boundary_iou(empty, empty) == 1.0
    assert boundary_iou(empty, ~empty) == 0.0
    assert whole_boundary(Boundary.of(empty)).shape == (5, 6)
    assert not whole_boundary(Boundary.of(empty)).any()


def test_boundaries_far_apart_share_nothing():
    a, b = np.zeros((2, 30, 30), bool)
    a[2:5, 2:5] = True
    b[20:25, 20:25] = True
    assert boundary_iou(a, b) == 0.0


def test_what_cannot_be_compared_is_refused():
    mask = np.ones((6, 8), bool)
    with pytest.raises(DataError, match="bool mask"):
        whole_boundary(Boundary.of(mask.astype(np.uint8)))
    with pytest.raises(DataError, match="cannot be compared"):
        boundary_iou(mask, mask.T)
    with pytest.raises(DataError, match="cannot be compared"):
        iou(Boundary.of(mask, 0.1), Boundary.of(mask, 0.4))
