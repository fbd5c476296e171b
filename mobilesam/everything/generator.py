"""Automatic mask generation: all objects of an image, from a grid of points or a detector's boxes.

`AutomaticMaskGenerator` has the parameters, defaults, records and results of segment-anything's
`SamAutomaticMaskGenerator`. The order of the work differs: masks are first selected by predicted
IoU; the rest is upsampled one strip of one mask at a time, only where it can be above the
threshold; and masks are kept as runs. So memory beyond the image does not depend on its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
from segment_anything.modeling import Sam

from mobilesam.errors import UsageError
from mobilesam.everything.mask_runs import (
    MaskRuns,
    cut_by_crop,
    measure,
    suppressed,
    without_small_regions,
)
from mobilesam.everything.point_grid import (
    Box,
    Crop,
    Points,
    RoughLimits,
    check_grids,
    crops_of,
    distinct_points,
    layer_grids,
)
from mobilesam.fast import threads
from mobilesam.fast.preview import Levels
from mobilesam.inputs import Float32Array, UInt8Array, as_array
from mobilesam.predictor import MobileSam, as_image, as_predictor
from mobilesam.prompts import Prompts, check_boxes

OutputMode = Literal["binary_mask", "uncompressed_rle", "coco_rle"]
_DEFAULT_OUTPUT: OutputMode = "binary_mask"
# Prompts that are decoded together: 48 MiB of logits.
_DEFAULT_BATCH = 64
_DEFAULT_STABILITY_OFFSET = 1.0


@dataclass(frozen=True, slots=True)
class FoundMask:
    """One mask of an image."""

    runs: MaskRuns
    box: Box  # x0, y0, x1, y1 of its first and last columns and rows
    score: float  # predicted IoU
    stability: float
    point: tuple[float, float] | None  # xy of the prompt in pixels of the image, if it is a point
    crop: Crop  # in which it was found

    def record(self, output_mode: OutputMode) -> dict[str, Any]:
        """The record of `SamAutomaticMaskGenerator`."""
        forms = {
            "binary_mask": self.runs.to_mask,
            "uncompressed_rle": self.runs.uncompressed,
            "coco_rle": self.runs.compressed,
        }
        return {
            "segmentation": forms[output_mode](),
            "area": self.runs.area_px,
            "bbox": _xywh(self.box),
            "predicted_iou": self.score,
            "point_coords": [] if self.point is None else [list(self.point)],
            "stability_score": self.stability,
            "crop_box": _xywh(self.crop.box),
        }


@dataclass(frozen=True, slots=True)
class AutomaticMaskGenerator:
    """Segments all objects from a grid of points; safe to call from several threads.

    Attributes:
        model: A `MobileSam`, or a plain `Sam` of its architecture, whose weights are then copied.
        points_per_side: Points along one side of the image; None if there are `point_grids`.
        points_per_batch: Points that are decoded together.
        pred_iou_thresh: Masks whose predicted IoU is not above it are dropped; 0 keeps all.
        stability_score_thresh: Masks that are less stable are dropped; 0 keeps all.
        stability_score_offset: Shift of the threshold, in both directions, for the stability score.
        box_nms_thresh: Of two masks of a crop whose boxes overlap by more, the worse is dropped.
        crop_n_layers: Layers of crops to search besides the whole image; layer n has 4^n of them.
        crop_nms_thresh: The same as `box_nms_thresh`, between crops; the smaller crop is preferred.
        crop_overlap_ratio: Overlap of crops, as a share of the image's shorter side.
        crop_n_points_downscale_factor: Layer n has this factor to the n-th fewer points a side.
        point_grids: For each layer (N, 2) xy as fractions; instead of `points_per_side`.
        min_mask_region_area: Holes and islands of fewer pixels are removed, if above 0.
        output_mode: Form of the masks: (H, W) bool, or a run length encoding, such as `coco_rle`
            for many masks of a large image.
        hierarchical: Look at rough masks of all points first, and prompt only the points that
            promise masks unlike those of others, about a fifth. Faster; it finds about 95 % of the
            masks. A network without `preview` gains nothing.

    Raises:
        UsageError: Invalid parameters, or a model of another kind.
    """

    model: MobileSam | Sam
    points_per_side: int | None = 32
    points_per_batch: int = _DEFAULT_BATCH
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = _DEFAULT_STABILITY_OFFSET
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: Sequence[Points] | None = None
    min_mask_region_area: int = 0
    output_mode: OutputMode = _DEFAULT_OUTPUT
    hierarchical: bool = False

    def __post_init__(self) -> None:
        if (self.points_per_side is None) == (self.point_grids is None):
            raise UsageError("give either points_per_side or point_grids")
        for name in ("points_per_side", "points_per_batch", "crop_n_points_downscale_factor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1; got {value}")
        if self.crop_n_layers < 0:
            raise UsageError(f"crop_n_layers cannot be negative; got {self.crop_n_layers}")
        if self.hierarchical and self.points_per_side is None:
            raise UsageError("the hierarchical mode has its own grids; give points_per_side")
        _check_output_mode(self.output_mode)
        self.grids()
        object.__setattr__(self, "model", as_predictor(self.model))

    def generate(self, image: UInt8Array) -> list[dict[str, Any]]:
        """Finds all masks of an (H, W, 3) uint8 RGB image.

        Returns:
            Records with `segmentation`, `area` (pixels), `bbox` (x, y, width, height from first to
            last pixel), `predicted_iou`, `point_coords`, `stability_score` and `crop_box`.

        Raises:
            DataError: Not such an image, or an empty one.
            UsageError: The image is too small for so many layers of crops.
        """
        return [found.record(self.output_mode) for found in self.find(image)]

    def find(self, image: UInt8Array) -> list[FoundMask]:
        """Like `generate`, with masks as runs."""
        image = as_image(image)
        crops = crops_of(image.shape[:2], self.crop_n_layers, self.crop_overlap_ratio)
        found = [mask for crop in crops for mask in self._in_crop(image, crop)]
        if len(crops) > 1:
            # Smaller crops have a higher resolution.
            found = _best(found, [1 / mask.crop.area_px for mask in found], self.crop_nms_thresh)
        if self.min_mask_region_area > 0:
            cleaned = [without_small_regions(m.runs, self.min_mask_region_area) for m in found]
            pairs = zip(found, cleaned, strict=True)
            found = [replace(mask, runs=runs, box=runs.box()) for mask, (runs, _) in pairs]
            # Removes the duplicates that this creates; unchanged masks are preferred.
            scores = [float(not changed) for _, changed in cleaned]
            found = _best(found, scores, max(self.box_nms_thresh, self.crop_nms_thresh))
        return found

    def grids(self) -> tuple[Points, ...]:
        """The points of the image, and of the crops of each layer: (N, 2) xy as fractions."""
        per_side, n_layers = self.points_per_side, self.crop_n_layers
        if per_side is None:
            return check_grids(self.point_grids or (), n_layers)
        return layer_grids(per_side, n_layers, self.crop_n_points_downscale_factor)

    def _in_crop(self, image: UInt8Array, crop: Crop) -> list[FoundMask]:
        predictor, image_hw = as_predictor(self.model), image.shape[:2]
        x0, y0, x1, y1 = crop.box
        embedding = predictor.encode(image[y0:y1, x0:x1])
        upsampler = predictor.upsampler(embedding.size_hw, embedding.inner_hw, "cpu")
        points = self.grids()[crop.layer] * np.array([x1 - x0, y1 - y0])
        least_score = self.pred_iou_thresh if self.pred_iou_thresh > 0 else -np.inf
        measure_one = partial(
            measure,
            upsampler=upsampler,
            crop=crop,
            image_hw=image_hw,
            threshold=predictor.mask_threshold,
            offset=self.stability_score_offset,
            least_stability=self.stability_score_thresh,
        )
        found: list[FoundMask] = []
        if self.hierarchical:
            limits = RoughLimits.of(self.pred_iou_thresh, self.stability_score_thresh)
            levels = Levels(
                predictor.mask_threshold, self.stability_score_offset, limits.least_score
            )
            rough = predictor.preview_masks(embedding, _foreground(points), levels)
            points = points[distinct_points(rough, limits)]
        for batch in self._batches(points):
            masks = predictor.find_masks(embedding, _foreground(batch), least_score)
            measured = threads.spread(measure_one, list(masks.logits.float().cpu()))
            scored = zip(masks.prompts.tolist(), masks.scores.tolist(), measured, strict=True)
            for row, score, mask in scored:
                if mask is not None and not cut_by_crop(mask.box, crop, image_hw):
                    point = (float(batch[row, 0] + x0), float(batch[row, 1] + y0))
                    found.append(FoundMask(mask.runs, mask.box, score, mask.stability, point, crop))
        return _best(found, [mask.score for mask in found], self.box_nms_thresh)

    def _batches(self, points: Points) -> Iterator[Points]:
        for first in range(0, len(points), self.points_per_batch):
            yield points[first : first + self.points_per_batch]


class HasBox(Protocol):
    """One detected object."""

    @property
    def box(self) -> Float32Array:
        """(4,) xyxy in pixels of the image."""


class Detector(Protocol):
    """An object detector, such as `everything` of a FastSAM adapter."""

    def __call__(self, image: UInt8Array) -> Sequence[HasBox]:
        """Objects on an (H, W, 3) uint8 RGB image."""


def segment_boxes(
    model: MobileSam | Sam,
    image: UInt8Array,
    boxes: npt.ArrayLike,
    *,
    boxes_per_batch: int = _DEFAULT_BATCH,
    stability_score_offset: float = _DEFAULT_STABILITY_OFFSET,
    output_mode: OutputMode = _DEFAULT_OUTPUT,
) -> list[dict[str, Any]]:
    """Segments the object in each box: object-aware prompts (MobileSAMv2, arXiv 2312.09579).

    Masks are not filtered; an empty mask means that nothing was found in the box.

    Args:
        model: See `AutomaticMaskGenerator`, as for the last two.
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) xyxy in pixels of the image, as an array, list, tensor or data frame; N may
            be 0.
        boxes_per_batch: Boxes that are decoded together.
        stability_score_offset: Shift of the threshold for the stability score.
        output_mode: Form of the masks.

    Returns:
        Records as of `AutomaticMaskGenerator`, in the order of the boxes; `point_coords` is empty,
        and `prompt_box` is the box as a list.

    Raises:
        DataError: Not such an image, or an empty one.
        UsageError: A box that is empty or not finite, a wrong shape, or an unknown output mode.
    """
    _check_output_mode(output_mode)
    predictor, image = as_predictor(model), as_image(image)
    height, width = size_hw = image.shape[:2]
    prompts = Prompts(boxes=as_array(boxes, "boxes"), sam_rules=True)
    wanted = prompts.boxes
    assert wanted is not None  # noqa: S101 - just given
    check_boxes(wanted)
    if len(prompts) == 0:
        return []
    embedding = predictor.encode(image)
    upsampler = predictor.upsampler(embedding.size_hw, embedding.inner_hw, "cpu")
    whole = Crop((0, 0, width, height), 0)
    records = []
    limits = {"threshold": predictor.mask_threshold, "offset": stability_score_offset}
    for first in range(0, len(prompts), boxes_per_batch):
        rows = slice(first, first + boxes_per_batch)
        logits, scores = predictor.decode_logits(embedding, prompts[rows])
        lows = logits[:, 0].float().cpu()
        for box, low, score in zip(wanted[rows], lows, scores[:, 0].tolist(), strict=True):
            found = measure(low, upsampler, whole, size_hw, **limits)
            assert found is not None  # noqa: S101 - no least stability is given
            mask = FoundMask(found.runs, found.box, score, found.stability, None, whole)
            records.append({**mask.record(output_mode), "prompt_box": box.tolist()})
    return records


def segment_objects(
    model: MobileSam | Sam,
    image: UInt8Array,
    detector: Detector,
    *,
    output_mode: OutputMode = _DEFAULT_OUTPUT,
) -> list[dict[str, Any]]:
    """Segments the objects that a detector finds, such as `everything` of a FastSAM adapter."""
    image = as_image(image)
    boxes = [np.asarray(each.box, np.float64) for each in detector(image)]
    return segment_boxes(model, image, np.reshape(boxes, (-1, 4)), output_mode=output_mode)


def _check_output_mode(mode: str) -> None:
    known = get_args(OutputMode)
    if mode not in known:
        raise UsageError(f"unknown output_mode {mode!r}; choose from {', '.join(known)}")


def _foreground(points: Points) -> Prompts:
    """Prompts of one foreground point each, from (N, 2) xy in pixels."""
    given: Any = points[:, None]
    return Prompts(given, np.ones((len(points), 1), np.int64), sam_rules=True)


def _best(found: Sequence[FoundMask], scores: Sequence[float], iou: float) -> list[FoundMask]:
    """Non-maximum suppression by boxes; the best mask is the first."""
    boxes = np.array([mask.box for mask in found], np.float32).reshape(-1, 4)
    return [found[index] for index in suppressed(boxes, np.asarray(scores, np.float32), iou)]


def _xywh(box: Box) -> list[int]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]
