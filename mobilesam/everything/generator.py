"""Segment everything: every object of an image, from a grid of points or from a detector's boxes.

`AutomaticMaskGenerator` has the parameters, defaults, records and results of segment-anything's
`SamAutomaticMaskGenerator`. What differs is the order of the work: predicted IoU decides first;
what is left is upsampled one strip of one mask at a time, only where it can be above the threshold;
and masks are kept as runs. So memory beyond the image itself does not depend on its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from segment_anything.modeling import Sam
from torch import Tensor

from mobilesam.errors import UsageError
from mobilesam.everything.box_prompts import segment_boxes, segment_objects
from mobilesam.everything.filters import (
    box_of_runs,
    cut_by_crop,
    measure,
    without_duplicates,
    without_small_regions,
)
from mobilesam.everything.masks import (
    DEFAULT_BATCH,
    DEFAULT_OUTPUT,
    DEFAULT_STABILITY_OFFSET,
    FoundMask,
    OutputMode,
    check_output_mode,
)
from mobilesam.everything.point_grid import (
    Crop,
    Points,
    check_grids,
    crops_of,
    layer_grids,
)
from mobilesam.everything.point_schedule import AskingOrder, EveryPoint, LeastCovered
from mobilesam.fast.prompting import (
    ImageEmbedding,
    PromptedSam,
    UInt8Array,
    as_image,
    as_prompted,
    check_image,
)
from mobilesam.fast.upsampling import Upsampler

__all__ = [
    "AutomaticMaskGenerator",
    "FoundMask",
    "OutputMode",
    "segment_boxes",
    "segment_objects",
]


@dataclass(frozen=True, slots=True)
class _Confident:
    """Masks whose predicted IoU is above the threshold.

    Attributes:
        rows: Of which point each mask is.
        scores: Predicted IoU of each.
        logits: (M, h, w) float32 on the host.
    """

    rows: list[int]
    scores: list[float]
    logits: Tensor


@dataclass(frozen=True, slots=True)
class AutomaticMaskGenerator:
    """Segments everything from a grid of points; safe to call from several threads.

    Attributes:
        model: A `MobileSam`, or a plain `Sam` of its architecture, whose weights are then copied.
        points_per_side: Points along one side of the image; None if there are `point_grids`.
        points_per_batch: Points that are decoded before their masks are looked at.
        pred_iou_thresh: Masks whose predicted IoU is not above it are dropped; 0 keeps all.
        stability_score_thresh: Masks that are less stable are dropped; 0 keeps all.
        stability_score_offset: Shift of the threshold, either way, that a stable mask survives.
        box_nms_thresh: Of two masks of a crop whose boxes overlap by more, the worse goes.
        crop_n_layers: Layers of crops to search beside the whole image; layer n has 4^n of them.
        crop_nms_thresh: The same as `box_nms_thresh`, between crops; the smaller crop wins.
        crop_overlap_ratio: Overlap of crops, as a share of the image's shorter side.
        crop_n_points_downscale_factor: Layer n has so many times to the n-th fewer points a side.
        point_grids: For each layer (N, 2) xy as fractions; instead of `points_per_side`.
        min_mask_region_area: Holes and islands of fewer pixels are removed, if above 0.
        output_mode: How masks are given: (H, W) bool, or a run length encoding. Many masks of a
            large image are best asked for as `coco_rle`.
        hierarchical: Ask 7 of 16 points alone: every fourth one first, and then those on which the
            least was found. Quicker; it may miss what lies inside of a larger object.

    Raises:
        UsageError: Invalid parameters, or a model of another kind.
    """

    model: PromptedSam | Sam
    points_per_side: int | None = 32
    points_per_batch: int = DEFAULT_BATCH
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = DEFAULT_STABILITY_OFFSET
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: Sequence[Points] | None = None
    min_mask_region_area: int = 0
    output_mode: OutputMode = DEFAULT_OUTPUT
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
            raise UsageError("the hierarchical mode has grids of its own; give points_per_side")
        check_output_mode(self.output_mode)
        self.grids()
        object.__setattr__(self, "model", as_prompted(self.model))

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
        """As `generate`, with masks as runs."""
        image = as_image(image)
        size_hw = check_image(image)
        crops = crops_of(size_hw, self.crop_n_layers, self.crop_overlap_ratio)
        found = [mask for crop in crops for mask in self._in_crop(image, crop)]
        if len(crops) > 1:
            # Smaller crops see more.
            found = _best(found, [1 / mask.crop.area_px for mask in found], self.crop_nms_thresh)
        if self.min_mask_region_area > 0:
            found = self._cleaned(found)
        return found

    def grids(self) -> tuple[Points, ...]:
        """The points of the image, and of the crops of each layer: (N, 2) xy as fractions."""
        if self.points_per_side is None:
            return check_grids(self.point_grids or (), self.crop_n_layers)
        return layer_grids(
            self.points_per_side, self.crop_n_layers, self.crop_n_points_downscale_factor
        )

    @property
    def _prompted(self) -> PromptedSam:
        return as_prompted(self.model)

    def _in_crop(self, image: UInt8Array, crop: Crop) -> list[FoundMask]:
        x0, y0, x1, y1 = crop.box
        embedding = self._prompted.encode(image[y0:y1, x0:x1])
        upsampler = self._prompted.upsampler(embedding, "cpu")
        points = self.grids()[crop.layer] * np.array([x1 - x0, y1 - y0])
        order = self._order(len(points))
        found: list[FoundMask] = []
        for chosen in order.batches():
            batch = points[chosen]
            confident = self._confident(batch, embedding)
            found += self._measured(confident, batch, upsampler, crop, image.shape[:2])
            order.found(*self._cells(confident.logits, points, embedding))
        return _best(found, [mask.score for mask in found], self.box_nms_thresh)

    def _order(self, count: int) -> AskingOrder:
        kind = LeastCovered if self.hierarchical else EveryPoint
        return kind(count, self.points_per_batch)

    def _confident(self, points: Points, embedding: ImageEmbedding) -> _Confident:
        logits, scores = self._prompted.decode_logits(
            embedding,
            points=points[:, None],
            labels=np.ones((len(points), 1), np.int64),
            multimask=True,
        )
        keep = scores > (self.pred_iou_thresh if self.pred_iou_thresh > 0 else -np.inf)
        rows = keep.nonzero()[:, 0].tolist()
        return _Confident(rows, scores[keep].tolist(), logits[keep].float().cpu())

    def _cells(
        self, logits: Tensor, points: Points, embedding: ImageEmbedding
    ) -> tuple[Tensor, npt.NDArray[np.float64]]:
        """Masks at the size of their logits, without the padding, and the points in its pixels."""
        low_hw = np.array(logits.shape[1:])
        inner_hw = np.array(embedding.inner_hw) * low_hw / self._prompted.transform.target_length
        height, width = np.ceil(inner_hw).astype(int)
        cells = points * (inner_hw / embedding.size_hw)[::-1]
        return logits[:, :height, :width] > self._prompted.mask_threshold, cells

    def _measured(
        self,
        confident: _Confident,
        points: Points,
        upsampler: Upsampler,
        crop: Crop,
        image_hw: tuple[int, int],
    ) -> Iterator[FoundMask]:
        """Masks of confident logits that are stable and not cut by the crop."""
        rows = zip(confident.rows, confident.scores, confident.logits, strict=True)
        for row, score, logits in rows:
            found = measure(
                logits,
                upsampler,
                crop,
                image_hw,
                threshold=self._prompted.mask_threshold,
                offset=self.stability_score_offset,
                least_stability=self.stability_score_thresh,
            )
            if found is None or cut_by_crop(found.box, crop, image_hw):
                continue
            point = (float(points[row, 0] + crop.box[0]), float(points[row, 1] + crop.box[1]))
            yield FoundMask(found.runs, found.box, score, found.stability, point, crop)

    def _cleaned(self, found: Sequence[FoundMask]) -> list[FoundMask]:
        """Without small holes and islands, and without the duplicates that this makes."""
        cleaned, scores = [], []
        for mask in found:
            runs, changed = without_small_regions(mask.runs, self.min_mask_region_area)
            cleaned.append(replace(mask, runs=runs, box=box_of_runs(runs)))
            # Of two that are now alike, the one that needed nothing stays.
            scores.append(float(not changed))
        return _best(cleaned, scores, max(self.box_nms_thresh, self.crop_nms_thresh))


def _best(found: Sequence[FoundMask], scores: Sequence[float], iou: float) -> list[FoundMask]:
    kept = without_duplicates([mask.box for mask in found], scores, iou)
    return [found[index] for index in kept]
