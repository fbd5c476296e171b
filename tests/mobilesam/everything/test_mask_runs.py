"""Runs, measuring and filters of masks, each against segment-anything's or pycocotools' own."""

from __future__ import annotations

import subprocess
import sys

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

from mobilesam.everything.mask_runs import (
    CROP_EDGE_PX,
    MaskRuns,
    cut_by_crop,
    join_edges,
    measure,
    runs_of_mask,
    strip_edges,
    support,
    suppressed,
    without_small_regions,
)
from mobilesam.everything.point_grid import Crop
from mobilesam.fast import upsampling
from mobilesam.fast.upsampling import Span, Upsampler

FAST = settings(max_examples=40, deadline=None, derandomize=True)
SIDE_PX, LOW_PX = 64, 16


class Encoder(nn.Module):
    img_size = SIDE_PX


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


@pytest.mark.parametrize("image_hw", [(40, 61), (200, 90), (16, 16)])
def test_measure_equals_segment_anything(
    image_hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sam = Sam(Encoder(), nn.Identity(), nn.Identity())
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


def test_support_spans_high_logits() -> None:
    logits = torch.full((6, 7), -3.0)
    logits[2, 3] = logits[4, 5] = 1
    assert support(logits, 0.0) == (Span(2, 5), Span(3, 6))
    assert support(logits, 2.0) == (Span(0, 0), Span(0, 0))


@FAST
@given(masks)
def test_runs_equal_segment_anything_and_pycocotools(mask: np.ndarray) -> None:
    runs = runs_of_mask(mask)
    (expected,) = amg.mask_to_rle_pytorch(torch.from_numpy(mask)[None])
    assert runs.uncompressed() == expected
    assert runs.area_px == mask.sum()
    assert np.array_equal(runs.to_mask(), mask)
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert runs.compressed()["counts"].encode() == encoded["counts"]
    assert list(runs.box()) == amg.batched_mask_to_box(torch.from_numpy(mask)).tolist()


@FAST
@given(masks, st.integers(1, 40))
def test_joined_strips_equal_runs_of_the_mask(mask: np.ndarray, step: int) -> None:
    height, width = mask.shape
    parts = [
        strip_edges(mask[:, left : left + step].T, left, 0, height)
        for left in range(0, width, step)
    ]
    assert np.array_equal(join_edges(parts), runs_of_mask(mask).edges)


@FAST
@given(masks, st.integers(0, 60))
def test_small_regions_equal_segment_anything(mask: np.ndarray, least_px: int) -> None:
    filled, holes = amg.remove_small_regions(mask, least_px, "holes")
    expected, islands = amg.remove_small_regions(filled, least_px, "islands")
    found, changed = without_small_regions(runs_of_mask(mask), least_px)
    assert changed == (holes or islands)
    assert np.array_equal(found.to_mask(), expected)


@FAST
@given(st.integers(0, 10**6))
def test_cut_boxes_equal_segment_anything(seed: int) -> None:
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


def test_an_empty_mask_has_no_runs() -> None:
    empty = MaskRuns((3, 4), np.empty(0, np.int64))
    assert empty.counts() == [12]
    assert not empty.to_mask().any()


@FAST
@given(
    corners=st.lists(st.tuples(*4 * [st.integers(0, 12)]), max_size=30),
    scores=st.lists(st.sampled_from([0.5, 0.9, 0.95]), min_size=30, max_size=30),
    iou=st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0]),
)
def test_suppression_is_that_of_torchvision(
    corners: list[tuple[int, int, int, int]], scores: list[float], iou: float
) -> None:
    from torchvision.ops import nms

    given = [(*sorted((a, c)), *sorted((b, d))) for a, b, c, d in corners]
    boxes = np.array([(x0, y0, x1, y1) for x0, x1, y0, y1 in given], np.float32).reshape(-1, 4)
    confidence = np.array(scores[: len(boxes)], np.float32)
    wanted = nms(torch.from_numpy(boxes), torch.from_numpy(confidence), iou)
    assert suppressed(boxes, confidence, iou) == wanted.tolist()


def test_suppression_does_not_import_torchvision() -> None:
    code = "import sys; from mobilesam.everything import generator as g; g._best([], [], 0.5); "
    command = [sys.executable, "-c", code + "assert 'torchvision' not in sys.modules"]
    subprocess.run(command, check=True)
