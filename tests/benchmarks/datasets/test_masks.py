"""Run-length encodings against pycocotools, IoU, and the deepest pixel of a mask."""

import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from scipy import ndimage

from benchmarks.datasets import masks
from benchmarks.datasets.masks import (
    boundary_complexity,
    center_point,
    decode_mask,
    deepest_pixel,
    encode_mask,
    iou,
    rle_area_px,
    rle_box,
    segmentation_to_rle,
)
from mobilesam.errors import DataError

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20))
QUICK = settings(derandomize=True, deadline=None, max_examples=60)


def reference_decode(rle):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return coco_mask.decode(dict(rle)).astype(bool)


@QUICK
@given(MASKS)
def test_encoding_and_decoding_agree_with_pycocotools(mask):
    rle = encode_mask(mask)
    decoded = decode_mask(rle)
    assert decoded.flags.c_contiguous
    assert decoded.dtype == np.bool_
    assert np.array_equal(decoded, mask)
    assert np.array_equal(reference_decode(rle), mask)
    assert rle_area_px(rle) == mask.sum()


@QUICK
@given(MASKS)
def test_all_notations_give_the_same_mask(mask):
    compressed = encode_mask(mask)
    flat = mask.ravel(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    counts = np.diff([0, *edges, mask.size]).tolist()
    raw = {"size": list(mask.shape), "counts": counts}
    for notation in (raw, dict(compressed), compressed | {"counts": compressed["counts"].encode()}):
        assert segmentation_to_rle(notation, mask.shape) == compressed


def test_long_runs_and_large_differences_decode():
    mask = np.zeros((2000, 1500), bool)
    mask[5:1900, 3] = True
    mask[7, 700:1400] = True
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)


def test_polygons_are_rasterised_as_by_pycocotools():
    polygons = [[1.0, 1, 8, 1.5, 8, 9, 2, 8], [10, 10, 15, 10, 12.0, 14]]
    rle = segmentation_to_rle(polygons, (16, 20))
    expected = np.zeros((16, 20), bool)
    for part in coco_mask.frPyObjects(polygons, 16, 20):
        expected |= reference_decode(part)
    assert expected.any()
    assert np.array_equal(decode_mask(rle), expected)


def test_an_empty_list_of_polygons_is_an_empty_mask():
    rle = segmentation_to_rle([], (4, 5))
    assert rle_area_px(rle) == 0
    assert rle_box(rle).tolist() == [0, 0, 0, 0]


def test_box_has_half_open_edges():
    mask = np.zeros((10, 12), bool)
    mask[3, 5] = True
    assert rle_box(encode_mask(mask)).tolist() == [5, 3, 6, 4]


NAN = float("nan")


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([[1, 1, 5, 5]], "2 points"),
        ([[1, 1, 5, 5, 6]], "odd number"),
        ([[1, 1, 5, 5, 6, NAN]], "far outside"),
        ([[1, 1, 5, 5, 6, 1e12]], "far outside"),
        ([[1, 1, 5, 5, 6, -1e12]], "far outside"),
        ([[1, 1, 5, 5, 6, "7"]], "not a number"),
        ([7], "not a list"),
        ("text", "is a str"),
        (None, "NoneType"),
        ({"counts": [25]}, "no 'size'"),
        ({"size": [5, 5]}, "no 'counts'"),
        ({"size": [5, 6], "counts": [30]}, r"size \[5, 6\], but the image \[5, 5\]"),
        ({"size": [5, 5], "counts": [24]}, "add up to 24"),
        ({"size": [5, 5], "counts": [10**30]}, "longer than the image"),
        ({"size": [5, 5], "counts": [30, -5]}, "negative"),
        ({"size": [5, 5], "counts": [24.5, 0.5]}, "whole numbers"),
        ({"size": [5, 5], "counts": [float("inf")]}, "whole numbers"),
        ({"size": [5, 5], "counts": [True]}, "whole numbers"),
        ({"size": [5, 5], "counts": [1e300]}, "longer than the image"),
        ({"size": [5, 5], "counts": 25}, "a int"),
        ({"size": [5, 5], "counts": ""}, "cut off"),
        ({"size": [5, 5], "counts": "é"}, "invalid character"),
        ({"size": [5, 5], "counts": "oooooooo0"}, "beyond 32 bits"),
        ({"size": [5, 5], "counts": "oo"}, "cut off"),
        ({"size": [5, 5], "counts": "00000000"}, "add up to"),
        ({"size": [5, 5], "counts": "oo0"}, "negative"),
        ({"size": 5, "counts": "0"}, "size 5, but the image"),
        ({"size": [5, 5], "counts": "\ud800"}, "invalid character"),
        ([[1, 1, 5, 5, 6, 10**400]], "far outside"),
    ],
)
def test_malformed_segmentations_are_reported(segmentation, words):
    with pytest.raises(DataError, match=words):
        segmentation_to_rle(segmentation, (5, 5))


def test_too_long_an_outline_is_rejected():
    """The rasteriser would take 40 bytes for each of its pixels."""
    with pytest.raises(DataError, match=r"outline of 1\.2e\+07 px"):
        segmentation_to_rle([[0, 0, 3_000_000, 0, 0, 0, 3_000_000, 1]], (1, 3_000_000))


@QUICK
@given(st.binary(max_size=30))
def test_arbitrary_counts_do_not_break_the_decoder(counts):
    try:
        rle = segmentation_to_rle({"size": [9, 7], "counts": counts}, (9, 7))
    except DataError:
        return
    assert np.array_equal(decode_mask(rle), reference_decode(rle))


@QUICK
@given(hnp.arrays(np.bool_, (2, 6, 7)))
def test_iou_matches_its_definition(pair):
    a, b = pair
    union = (a | b).sum()
    assert iou(a, b) == (1.0 if union == 0 else (a & b).sum() / union)


def test_iou_of_two_empty_masks_is_one():
    empty = np.zeros((3, 4), bool)
    assert iou(empty, empty) == 1.0
    assert iou(empty, ~empty) == 0.0


@pytest.mark.parametrize("other", [np.zeros((4, 3), bool), np.zeros((3, 4), np.uint8)])
def test_iou_rejects_other_types_and_shapes(other):
    with pytest.raises(DataError, match="two bool masks"):
        iou(np.zeros((3, 4), bool), other)


def full_size_center(mask):
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    rows, columns = np.nonzero(distance == distance.max())
    first = np.lexsort((columns, rows))[0]
    return int(columns[first]), int(rows[first])


@QUICK
@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14)))
def test_center_equals_the_maximum_of_the_full_size_transform(mask):
    if mask.any():
        assert center_point(mask) == full_size_center(mask)


@QUICK
@given(st.integers(0, 2**32 - 1))
def test_center_of_large_smooth_masks(seed):
    noise = np.random.default_rng(seed).normal(size=(60, 80))
    mask = ndimage.gaussian_filter(noise, 4) > 0.06
    if mask.any():
        assert center_point(mask) == full_size_center(mask)


def test_the_border_of_the_image_is_outside_of_a_mask():
    assert center_point(np.ones((5, 9), bool)) == (2, 2)
    left_half = np.zeros((5, 9), bool)
    left_half[:, :5] = True
    assert center_point(left_half) == (2, 2)


def test_ties_go_to_the_lowest_row_then_column():
    mask = np.zeros((8, 8), bool)
    for y, x in ((5, 1), (2, 6), (2, 3)):
        mask[y, x] = True
    assert center_point(mask) == (3, 2)


@pytest.mark.parametrize("seed", range(6))
def test_the_center_does_not_depend_on_the_library(monkeypatch, seed):
    noise = np.random.default_rng(seed).normal(size=(300, 400))
    mask = ndimage.gaussian_filter(noise, 3 * seed + 1) > 0
    with_opencv = deepest_pixel(mask)
    monkeypatch.setattr(masks, "_MAX_FLOAT32_SIDE_PX", 0)
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert deepest_pixel(mask) == with_opencv


def test_the_center_of_the_largest_mask_computed_by_opencv():
    side = masks._MAX_FLOAT32_SIDE_PX - 2
    rows, columns = np.ogrid[:side, :side]
    middle = (side - 1) / 2
    disc = (rows - middle) ** 2 + (columns - middle) ** 2 < middle**2
    for mask in (disc, np.pad(disc, ((0, 0), (0, 2)))):
        assert center_point(mask) == full_size_center(mask)
    wider = np.pad(disc, ((0, 0), (0, 3)), constant_values=True)
    assert center_point(wider) == full_size_center(wider)


def test_the_depth_is_the_square_of_the_distance():
    mask = np.zeros((9, 11), bool)
    mask[2:7, 3:8] = True
    assert deepest_pixel(mask) == (5, 4, 9)
    assert deepest_pixel(~mask & False) is None


def test_an_empty_mask_has_no_center():
    with pytest.raises(DataError, match="empty mask"):
        center_point(np.zeros((4, 4), bool))


def test_boundary_complexity():
    y, x = np.mgrid[:200, :200]
    radius = np.hypot(y - 100, x - 100)
    disc, ring = radius < 90, (radius < 90) & (radius >= 80)
    square = np.zeros((200, 200), bool)
    square[50:150, 50:150] = True
    assert boundary_complexity(disc) == pytest.approx(1, abs=0.01)
    assert boundary_complexity(square) == pytest.approx(1.138, abs=0.001)
    # Both outlines count: (2 pi (90 + 80))^2 / (4 pi^2 (90^2 - 80^2)) = 170 / 10.
    assert boundary_complexity(ring) == pytest.approx(17, rel=0.03)
    assert boundary_complexity(np.zeros((3, 3), bool)) is None
    assert boundary_complexity(np.ones((1, 1), bool)) > 0
    # Neither place nor border of the image matters.
    assert boundary_complexity(disc[10:, 10:]) == boundary_complexity(disc)
