"""What segment everything is made of, each against segment-anything's or pycocotools' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from segment_anything.modeling import Sam
from segment_anything.utils import amg
from segment_anything.utils.transforms import ResizeLongestSide
from torch import nn

from mobilesam.everything.filters import (
    CROP_EDGE_PX,
    box_of_runs,
    cut_by_crop,
    measure,
    support,
    without_small_regions,
)
from mobilesam.everything.point_grid import Crop, crops_of, grid_levels, layer_grids, point_grid
from mobilesam.everything.point_schedule import ASKED_SHARE, EveryPoint, LeastCovered
from mobilesam.everything.run_length import MaskRuns, join_edges, runs_of_mask, strip_edges
from mobilesam.fast import upsampling
from mobilesam.fast.upsampling import Span, Upsampler

FAST = settings(max_examples=40, deadline=None, derandomize=True)
SIDE_PX, LOW_PX = 64, 16


class Encoder(nn.Module):
    img_size = SIDE_PX


@pytest.fixture(scope="module")
def sam() -> Sam:
    return Sam(Encoder(), nn.Identity(), nn.Identity())


def some_logits(seed: int, count: int = 1) -> torch.Tensor:
    return 4 * torch.randn(count, LOW_PX, LOW_PX, generator=torch.Generator().manual_seed(seed))


def upsampler_of(image_hw: tuple[int, int]) -> tuple[Upsampler, tuple[int, int]]:
    inner_hw = ResizeLongestSide.get_preprocess_shape(*image_hw, SIDE_PX)
    return Upsampler((LOW_PX, LOW_PX), (SIDE_PX, SIDE_PX), inner_hw, image_hw), inner_hw


# segment-anything itself cannot resize an image of more than 2 x SIDE_PX to 1.
sizes = st.tuples(st.integers(2, 150), st.integers(2, 150))
masks = st.tuples(sizes, st.integers(0, 10**6), st.floats(0, 1)).map(
    lambda drawn: np.random.default_rng(drawn[1]).random(drawn[0]) < drawn[2]
)


@FAST
@given(sizes, st.integers(0, 99), st.integers(1, 200))
def test_upsampling_is_that_of_sam(image_hw: tuple[int, int], seed: int, strip_px: int) -> None:
    sam = Sam(Encoder(), nn.Identity(), nn.Identity())
    logits = some_logits(seed)
    upsampler, inner_hw = upsampler_of(image_hw)
    expected = sam.postprocess_masks(logits[None], inner_hw, image_hw)[0, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampling, "STRIP_PX", strip_px)
        rows = [(top, strip.clone()) for top, strip in upsampler.row_strips(logits[0])]
        spans = upsampler.rows.whole(), upsampler.columns.whole()
        columns = [strip.clone() for strip in upsampler.column_strips(logits[0], *spans)]
    assert all(strip.numel() <= max(strip_px, image_hw[1]) for _, strip in rows)
    assert [top for top, _ in rows] == np.cumsum([0, *(len(s) for _, s in rows)])[:-1].tolist()
    torch.testing.assert_close(torch.cat([s for _, s in rows]), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(columns).t(), expected, atol=1e-5, rtol=0)


@FAST
@given(sizes, st.integers(0, 15), st.integers(0, 15))
def test_a_span_of_the_image_is_all_that_sees_these_logits(
    image_hw: tuple[int, int], one: int, other: int
) -> None:
    low = Span(min(one, other), max(one, other) + 1)
    upsampler, _ = upsampler_of(image_hw)
    logits = torch.zeros(LOW_PX, LOW_PX)
    logits[low.low : low.high] = 1
    (picture,) = (
        s.clone() for s in upsampler.column_strips(logits, upsampler.rows.whole(), Span(0, 1))
    )
    seen = np.flatnonzero(picture[0].numpy() > 0)
    span = upsampler.rows.image_span(low)
    assert set(seen) <= set(range(span.low, span.high))
    # Not much more than needed: two logits, in pixels of the image.
    slack = 2 + 2 * 4 * max(image_hw) / SIDE_PX
    assert (span.high - span.low) - len(seen) <= 2 * slack


@pytest.mark.parametrize("image_hw", [(40, 61), (200, 90), (16, 16)])
def test_a_mask_is_measured_as_segment_anything_does(
    sam: Sam, image_hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upsampling, "STRIP_PX", 300)
    upsampler, inner_hw = upsampler_of(image_hw)
    crop = Crop((3, 5, 3 + image_hw[1], 5 + image_hw[0]), 1)
    full_hw = (image_hw[0] + 9, image_hw[1] + 7)
    smooth = nn.functional.avg_pool2d(some_logits(8, 30), 5, 1, 2) * 3 - 1
    smooth[0] = -9
    pictures = sam.postprocess_masks(smooth[None], inner_hw, image_hw)[0]
    expected = amg.calculate_stability_score(pictures, 0.0, 1.0)
    boxes = amg.uncrop_boxes_xyxy(amg.batched_mask_to_box(pictures > 0), list(crop.box))
    runs = amg.mask_to_rle_pytorch(amg.uncrop_masks(pictures > 0, list(crop.box), *full_hw))
    for row in range(1, len(smooth)):
        given_ = (smooth[row], upsampler, crop, full_hw)
        found = measure(*given_, threshold=0.0, offset=1.0)
        assert found is not None
        assert found.runs.uncompressed() == runs[row]
        assert found.stability == pytest.approx(float(expected[row]), abs=1e-6)
        if found.runs.area_px:
            assert list(found.box) == boxes[row].tolist()
        limit = found.stability
        assert measure(*given_, threshold=0.0, offset=1.0, least_stability=limit) is not None
        assert measure(*given_, threshold=0.0, offset=1.0, least_stability=limit + 0.01) is None
    empty = measure(smooth[0], upsampler, crop, full_hw, threshold=0.0, offset=1.0)
    assert empty is not None
    assert (empty.stability, empty.runs.area_px, empty.box) == (0.0, 0, (0, 0, 0, 0))


def test_support_is_where_logits_are_high() -> None:
    logits = torch.full((6, 7), -3.0)
    logits[2, 3] = logits[4, 5] = 1
    assert support(logits, 0.0) == (Span(2, 5), Span(3, 6))
    assert support(logits, 2.0) == (Span(0, 0), Span(0, 0))


@FAST
@given(masks)
def test_runs_are_those_of_segment_anything_and_of_pycocotools(mask: np.ndarray) -> None:
    runs = runs_of_mask(mask)
    (expected,) = amg.mask_to_rle_pytorch(torch.from_numpy(mask)[None])
    assert runs.uncompressed() == expected
    assert runs.area_px == mask.sum()
    assert np.array_equal(runs.to_mask(), mask)
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert runs.compressed()["counts"].encode() == encoded["counts"]
    assert list(box_of_runs(runs)) == amg.batched_mask_to_box(torch.from_numpy(mask)).tolist()


@FAST
@given(masks, st.integers(1, 40))
def test_runs_of_strips_join_to_runs_of_the_mask(mask: np.ndarray, step: int) -> None:
    height, width = mask.shape
    parts = [
        strip_edges(mask[:, left : left + step].T, left, 0, height)
        for left in range(0, width, step)
    ]
    assert np.array_equal(join_edges(parts), runs_of_mask(mask).edges)


def test_a_mask_counts_on_its_points_and_less_the_larger_it_is() -> None:
    order = LeastCovered(16, batch=4)
    cells = point_grid(4) * 8
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :, :6] = True  # most of the image: the first three columns of points
    masks[1, :, 6:] = True  # the fourth column
    batches = order.batches()
    assert next(batches).tolist() == [5, 7, 13, 15]
    order.found(masks, cells)
    # Seven of sixteen points are asked; those on the large mask come first, row by row.
    assert next(batches).tolist() == [0, 1, 2]
    assert list(batches) == []


def test_masks_without_end_leave_the_order_as_it_is() -> None:
    cells = point_grid(4) * 8
    order = LeastCovered(16, batch=64)
    batches = order.batches()
    next(batches)
    order.found(torch.zeros(0, 8, 8, dtype=torch.bool), cells)
    order.found(torch.ones(1, 8, 8, dtype=torch.bool), cells)
    assert next(batches).tolist() == [0, 1, 2]


@FAST
@given(per_side=st.integers(1, 12), batch=st.integers(1, 70), seed=st.integers(0, 99))
def test_no_point_is_asked_twice_and_seven_of_sixteen_are(
    per_side: int, batch: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = per_side**2
    cells = point_grid(per_side) * 8
    for order, wanted in (
        (EveryPoint(count, batch), count),
        (LeastCovered(count, batch), max(((per_side + 1) // 2) ** 2, round(ASKED_SHARE * count))),
    ):
        asked: list[int] = []
        for chosen in order.batches():
            assert 0 < len(chosen) <= batch
            asked += chosen.tolist()
            order.found(torch.rand(3, 8, 8, generator=generator) > 0.6, cells)
        assert len(set(asked)) == len(asked)
        assert len(asked) <= max(wanted, 1)
        assert len(asked) >= ASKED_SHARE * count - 1


@FAST
@given(masks, st.integers(0, 60))
def test_small_regions_are_those_of_segment_anything(mask: np.ndarray, least_px: int) -> None:
    filled, holes = amg.remove_small_regions(mask, least_px, "holes")
    expected, islands = amg.remove_small_regions(filled, least_px, "islands")
    found, changed = without_small_regions(runs_of_mask(mask), least_px)
    assert changed == (holes or islands)
    assert np.array_equal(found.to_mask(), expected)


@FAST
@given(st.tuples(st.integers(60, 900), st.integers(60, 900)), st.integers(0, 3), st.floats(0, 0.6))
def test_crops_are_those_of_segment_anything(
    size_hw: tuple[int, int], n_layers: int, overlap: float
) -> None:
    boxes, layers = amg.generate_crop_boxes(size_hw, n_layers, overlap)
    found = crops_of(size_hw, n_layers, overlap)
    assert [list(crop.box) for crop in found] == boxes
    assert [crop.layer for crop in found] == layers


@FAST
@given(st.integers(0, 10**6))
def test_boxes_cut_by_a_crop_are_those_of_segment_anything(seed: int) -> None:
    rng = np.random.default_rng(seed)
    crop = Crop((40, 0, 160, 110), 1)
    edges = np.array(crop.box) - np.array([40, 0, 40, 0])
    box = edges + rng.integers(-CROP_EDGE_PX - 1, CROP_EDGE_PX + 2, 4) * rng.integers(0, 2, 4)
    box[rng.integers(4)] = 60
    expected = amg.is_box_near_crop_edge(
        torch.from_numpy(box)[None], list(crop.box), [0, 0, 200, 150]
    )
    moved = tuple(int(value) for value in box + np.array([40, 0, 40, 0]))
    assert cut_by_crop(moved, crop, (150, 200)) == bool(expected)


def test_grids_are_those_of_segment_anything() -> None:
    for per_side in (1, 2, 7, 32):
        np.testing.assert_array_equal(point_grid(per_side), amg.build_point_grid(per_side))
    expected = amg.build_all_layer_point_grids(32, 2, 3)
    for found, grid in zip(layer_grids(32, 2, 3), expected, strict=True):
        np.testing.assert_array_equal(found, grid)


def test_levels_of_a_grid_are_grids_that_hold_one_another() -> None:
    levels = grid_levels(32, (4, 2, 1)).reshape(32, 32)
    assert [(levels <= level).sum() for level in range(3)] == [64, 256, 1024]
    coarse = np.argwhere(levels == 0)
    assert set(np.diff(np.unique(coarse[:, 0]))) == {4}
    assert coarse.min() == 2
    assert grid_levels(1, (4, 2, 1)).tolist() == [0]
    assert grid_levels(3, (4, 2, 1)).tolist() == [2, 2, 2, 2, 0, 2, 2, 2, 2]


def test_an_empty_mask_has_no_runs() -> None:
    empty = MaskRuns((3, 4), np.empty(0, np.int64))
    assert empty.counts() == [12]
    assert not empty.to_mask().any()
